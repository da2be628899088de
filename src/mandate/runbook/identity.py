"""Migration 008 on the engine: its spec from 008.toml, and what changes beside the tables at the swap."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

from mandate.errors import UsageError
from mandate.postgres import script
from mandate.postgres.connection import Session, Target
from mandate.postgres.script import Statement
from mandate.progress import Reporter
from mandate.rekey import cutover
from mandate.rekey import spec as rekey_spec
from mandate.rekey.engine import Engine
from mandate.rekey.options import Hooks, Options
from mandate.rekey.spec import Spec
from mandate.runbook import files, mapping, migrations

NAME = "008"
VERSION = 8

_SQL = Path(__file__).parent / "sql"
_PERSONS = frozenset({"domains"})
# Statements of the hand-run file that make what the swap calls.
_DEFINES = re.compile(r"\s*CREATE (OR REPLACE FUNCTION pg_temp\.|TEMP TABLE )m008_")
_SELECTORS_NOT_UNIQUE = (
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indrelid = 'mandate.scopes'::regclass"
    " AND NOT indisunique"
    " AND pg_catalog.pg_get_indexdef(indexrelid) ~ 'COALESCE\\(scope_domain.*COALESCE\\(tenant')"
)
# Clients wait for the whole swap, which has a little more to do here than moving tables.
OFFLINE_SWAP = cutover.Options(deadline_seconds=60.0, lock_timeout_seconds=10.0, largest_backlog=100_000)


@cache
def spec() -> Spec:
    """The engine's part of 008.toml. Raises UsageError naming what is wrong in it."""
    path = migrations.directory() / mapping.FILE_NAME
    document = tomllib.loads(path.read_text("utf-8"))
    return rekey_spec.from_document({k: v for k, v in document.items() if k not in _PERSONS}, str(path))


def engine(target: Target, reporter: Reporter, options: Options | None = None) -> Engine:
    """The engine that takes a database from version 7 to 8, and back; it raises what `Engine` raises.

    The hooks of `options` are set here: they are part of 008.
    """
    chosen = options or Options(swap=OFFLINE_SWAP)
    hooks = Hooks(
        begin=(prepare,),
        before_swap=(_define,),
        at_swap=(_swap,),
        at_swap_back=(_swap_back, lambda session: _say_if_not_unique(session, reporter)),
    )
    return Engine(target, spec(), chosen.with_hooks(hooks), reporter)


def prepare(session: Session) -> None:
    """Make what the spec reads beside the tables, where it is missing."""
    with session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(hashtextextended('mandate_conductor.mapping', 0))")
        session.execute((_SQL / "identity_prepare.sql").read_bytes())


def _define(session: Session) -> None:
    """Before anything is locked: making functions takes longer than calling them."""
    for statement in _definitions():
        session.execute(statement.encode())


@cache
def _definitions() -> tuple[str, ...]:
    parts = script.read(files.migration())
    found = tuple(part.sql for part in parts if isinstance(part, Statement) and _DEFINES.match(part.sql))
    if not found:
        raise UsageError(f"{files.migration()} does not define what the swap of 008 calls")
    return found


def _swap(session: Session) -> None:
    session.execute((_SQL / "identity_swap.sql").read_bytes())
    file = next(file for file in migrations.files() if file.version == VERSION)
    migrations.record(session, file.version, file.path.name, file.sha256)


def _swap_back(session: Session) -> None:
    session.execute((_SQL / "identity_swap_back.sql").read_bytes())
    migrations.forget(session, VERSION)


def _say_if_not_unique(session: Session, reporter: Reporter) -> None:
    """Version 7 refuses two scopes with equal selectors, version 8 does not; no scope is given up for it."""
    if session.value(_SELECTORS_NOT_UNIQUE):
        reporter.line(
            "scopes with equal selectors were written in version 8: version 7's index over the selectors"
            " is there, but not unique"
        )
