"""Real PostgreSQL servers for tests, and databases cloned from templates on them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import psutil
from psycopg import sql

from mandate.controlplane import seed
from mandate.errors import MandateError
from mandate.postgres import embedded
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.postgres.script import Statement, read

PREFIX = "mandate-tests-"
_SHARED_MEMORY = Path("/dev/shm")
_PLENTY_BYTES = 6 << 30

# Never for a real database: a crash of the machine may lose everything.
UNSAFE_AND_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "64MB",
    "max_prepared_transactions": "10",
    "wal_level": "logical",
    "max_connections": "60",
    "max_wal_size": "128MB",
}

HISTORY = seed.Parameters(decisions=2000, domains=6)


class DatabaseFactory(Protocol):
    """`database("v7")`: a fresh database of that kind, dropped after the test.

    empty; v7, v8, v9: the migration files applied; v7-seeded, v8-seeded: with HISTORY in it.
    """

    def __call__(self, kind: str = "empty", *, server: EmbeddedServer | None = None) -> Target: ...


@cache
def scratch() -> Path:
    """Where servers of tests live: in memory where there is plenty, since a database is made for every test.

    On a disk its hundreds of files cost six times the CPU, most of it the file system's.
    """
    found = os.statvfs(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None
    if found is None or found.f_flag & os.ST_NOEXEC or not os.access(_SHARED_MEMORY, os.W_OK):
        return Path(tempfile.gettempdir())
    room = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available)
    return _SHARED_MEMORY if room >= _PLENTY_BYTES else Path(tempfile.gettempdir())


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A short path that other users may pass through, unlike pytest's own; its name says whose it is."""
    place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=scratch()))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def running_server(version: int) -> Iterator[EmbeddedServer]:
    """A server of its own on a free port, stopped and removed afterwards."""
    with temporary_directory() as place:
        try:
            yield embedded.start(place / "pg", version=version, port=0, options=UNSAFE_AND_FAST)
        finally:
            embedded.stop(place / "pg", mode="immediate")


def end_orphans() -> None:
    """Stop servers that an earlier, killed test run of this user left behind."""
    places = {Path(tempfile.gettempdir()), _SHARED_MEMORY}
    for place in (found for each in places for found in each.glob(f"{PREFIX}*-*")):
        owner = place.name.removeprefix(PREFIX).split("-")[0]
        if not owner.isdigit() or psutil.pid_exists(int(owner)) or place.stat().st_uid != os.geteuid():
            continue
        for marker in place.rglob("mandate.json"):
            with suppress(MandateError):
                embedded.stop(marker.parent, mode="immediate")
        shutil.rmtree(place, ignore_errors=True)


class Databases:
    """Clones templates on one server. A template is built once, when it is first asked for."""

    def __init__(self, server: EmbeddedServer, migrations: Path) -> None:
        self.server = server
        self._migrations = migrations
        self._templates: dict[str, str] = {}

    def create(self, kind: str) -> Target:
        """A fresh database: empty, v7 (001..007 applied), v8 (001..008), v9, v7-seeded or v8-seeded."""
        name = f"{kind.replace('-', '_')}_{uuid4().hex[:12]}"
        with connect(self.server.target()) as session:
            if kind == "empty":
                _create(session, name, "template0")
            else:
                _clone(session, name, self._template(session, kind))
        return self.server.target(name)

    def drop(self, name: str) -> None:
        """Drop a database and whatever is connected to it."""
        with connect(self.server.target()) as session:
            session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _template(self, session: Session, kind: str) -> str:
        if kind not in self._templates:
            name = f"template_{kind.replace('-', '_')}"
            self.drop(name)
            _create(session, name, "template0")
            version, _, seeded = kind.removeprefix("v").partition("-")
            apply(self.server.target(name), self._migrations, upto=int(version))
            if seeded:
                seed.load(self.server.target(name), HISTORY)
            self._templates[kind] = name
        return self._templates[kind]


def apply(target: Target, migrations: Path, *, upto: int) -> None:
    """Run the migration files 1..upto, without recording anything."""
    files = sorted(migrations.glob("[0-9][0-9][0-9]_[a-z]*.sql"))
    with connect(target) as session:
        for file in files:
            if int(file.name[:3]) <= upto:
                for part in read(file):
                    if isinstance(part, Statement):
                        session.execute(part.sql.encode())


def _create(session: Session, name: str, template: str) -> None:
    session.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    )


def _clone(session: Session, name: str, template: str) -> None:
    """CREATE DATABASE does not copy the template's own settings, such as search_path."""
    _create(session, name, template)
    settings = session.rows(
        "SELECT unnest(setconfig) AS item"
        " FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
        " WHERE d.datname = %s AND s.setrole = 0",
        (template,),
    )
    for row in settings:
        key, _, value = row["item"].partition("=")
        # A list setting such as search_path is stored as a list already, with its own quoting.
        value_sql = sql.SQL(value) if key == "search_path" else sql.Literal(value)
        names = sql.Identifier(name), sql.Identifier(key)
        session.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(*names, value_sql))
