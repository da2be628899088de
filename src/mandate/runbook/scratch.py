"""Databases made from a backup: restored, proven to hold what the backup held, found again, dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mandate.errors import BackupFailed, DatabaseError
from mandate.postgres import database, dump
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.postgres.database import Mark
from mandate.progress import Reporter
from mandate.rekey.fingerprint import Fingerprint, fingerprint, fingerprint_schema, one_snapshot
from mandate.runbook.step import Context

SCRATCH = "scratch"
RESTORED = "restored"
BEFORE_ROLLBACK = "before-rollback"
STANDALONE = "backup-"
PROVEN = "proven"

# By content: pg_restore writes the pages that a sparse object had not.
_LARGE_OBJECTS = sql.SQL(
    "SELECT oid, pg_catalog.sha256(pg_catalog.lo_get(oid)) FROM pg_catalog.pg_largeobject_metadata"
)

_UNLIMITED = {
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "statement_timeout": "0",
}


@dataclass(frozen=True)
class Work:
    """Whose work it is: the database, the run, its directory, and how many jobs it may use at a time."""

    target: Target
    run_id: str
    directory: Path
    jobs: int
    reporter: Reporter
    application_name: str

    @classmethod
    def of(cls, context: Context) -> Work:
        """The work of a run."""
        return cls(
            context.target,
            context.run_id,
            context.directory,
            context.options.jobs,
            context.reporter,
            context.application_name,
        )

    def session(self, name: str | None = None) -> Session:
        """A session without time limits on the target, or on another database of its server."""
        target = self.target if name is None else self.target.with_database(name)
        session = connect(target, application_name=self.application_name, settings=_UNLIMITED)
        if session.server_version >= 170000:
            session.execute("SET transaction_timeout = 0")
        return session

    def maintenance(self) -> Session:
        """A session on another database of the server."""
        return database.maintenance(self.target, self.application_name)

    @contextmanager
    def helpers(self, name: str | None = None) -> Iterator[Sequence[Session]]:
        """The sessions beside the first one that share work with it."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.session(name)) for _ in range(self.jobs - 1)]


@dataclass(frozen=True)
class Expected:
    """What a restore must give."""

    tables: Mapping[str, Fingerprint]
    properties: Mapping[str, Any]
    database_bytes: int


@dataclass(frozen=True)
class Copy:
    """A database that was restored, and what it was found to hold."""

    name: str
    restore_seconds: float
    tables: Mapping[str, Fingerprint]


def identifier(run_id: str) -> str:
    """A run id as part of a database's name, which psql takes without quotes."""
    return re.sub(r"[^a-z0-9]", "_", run_id.lower())[-32:]


def name_for(run_id: str) -> str:
    """The scratch database of a run."""
    return f"mandate_scratch_{identifier(run_id)}"


def restore(
    work: Work, tool: dump.Client, archive: Path, name: str, purpose: str, expected: Expected
) -> Copy:
    """Restore into a new database and prove it. Raises BackupFailed naming the tables that differ.

    A database of that name that carries our mark is replaced.
    """
    mark = Mark(purpose, work.run_id, work.target.database, "restoring")
    with work.maintenance() as session:
        _replace(session, name, mark)
        database.create(session, name, expected.properties, mark)
        seconds = dump.restore(
            tool,
            archive,
            work.target.with_database(name),
            jobs=work.jobs,
            expected_bytes=expected.database_bytes,
            reporter=work.reporter,
        )
        database.apply_properties(session, name, expected.properties)
        found = _measure(work, name)
        require_equal(expected.tables, found)
        database.set_mark(session, name, Mark(purpose, work.run_id, work.target.database, PROVEN))
    return Copy(name, seconds, found)


def _replace(session: Session, name: str, mark: Mark) -> None:
    if not database.exists(session, name):
        return
    there = database.marks(session).get(name)
    if there is None or (there.purpose, there.run_id) != (mark.purpose, mark.run_id):
        raise BackupFailed(
            f"a database called {name} is there already, and this run did not make it",
            hint="look at it, and drop or rename it",
        )
    database.drop(session, name)


def measure(
    session: Session, helpers: Sequence[Session], reporter: Reporter, label: str
) -> dict[str, Fingerprint]:
    """Fingerprints of every table of a database, and of its large objects when it has any."""
    with one_snapshot(session):
        found = fingerprint_schema(session, workers=helpers, reporter=reporter, label=label)
        objects = fingerprint(session, _LARGE_OBJECTS)
    return {**found, "pg_catalog.pg_largeobject_metadata": objects} if objects.rows else found


def _measure(work: Work, name: str) -> dict[str, Fingerprint]:
    with work.session(name) as session, work.helpers(name) as helpers:
        return measure(session, helpers, work.reporter, "fingerprint the copy")


def require_equal(expected: Mapping[str, Fingerprint], found: Mapping[str, Fingerprint]) -> None:
    """Raise BackupFailed, naming the tables, unless both hold the same rows in the same tables."""
    differ = sorted(
        table for table in expected.keys() | found.keys() if expected.get(table) != found.get(table)
    )
    if differ:
        rows = "; ".join(_difference(table, expected.get(table), found.get(table)) for table in differ[:5])
        more = f"; and {len(differ) - 5} more" if len(differ) > 5 else ""
        raise BackupFailed(f"the restored backup is not what was backed up: {rows}{more}", tables=differ)


def _difference(table: str, expected: Fingerprint | None, found: Fingerprint | None) -> str:
    if expected is None or found is None:
        return f"{table} is {'unexpected' if expected is None else 'missing'}"
    if expected.rows != found.rows:
        return f"{table} has {found.rows:,} rows instead of {expected.rows:,}"
    return f"{table} has {found.rows:,} rows, but not the same ones"


def sweep(session: Session, work: Work) -> list[str]:
    """Drop what dead runs on this database left behind; the names that were dropped.

    Dead is every other run on it: only one may live. Backups outside a run hold a lock by which their
    scratch is known to be in use, and are swept only by their like. A database that somebody is
    connected to stays.
    """
    dropped = []
    for name in _left_behind(database.marks(session), work):
        if database.clients(session, name) or not try_claim(session, name):
            continue
        try:
            database.drop(session, name)
        except DatabaseError as error:
            if error.sqlstate != "55006":
                raise
        else:
            dropped.append(name)
    return dropped


def _left_behind(marks: Mapping[str, Mark], work: Work) -> list[str]:
    standalone = work.run_id.startswith(STANDALONE)
    ours = [
        name
        for name, mark in marks.items()
        if mark.database == work.target.database
        and mark.purpose in (SCRATCH, RESTORED)
        and mark.run_id.startswith(STANDALONE) == standalone
    ]
    # A rehearsal rolls its scratch back: what that left behind was made from the scratch.
    of_rehearsals = [
        name
        for name, mark in marks.items()
        if mark.database == name_for(mark.run_id) and (mark.database in ours or mark.database not in marks)
    ]
    return of_rehearsals + ours


def try_claim(session: Session, name: str) -> bool:
    """Hold a database made here as in use for as long as the session lives; False when somebody does."""
    claimed = session.value(
        "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('mandate.' || %s, 0))", (name,)
    )
    return bool(claimed)
