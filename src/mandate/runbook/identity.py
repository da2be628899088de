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
from mandate.runbook import identity_rows, mapping, migrations
from mandate.runbook.migration import Migration, Proven, Tried
from mandate.runbook.migrations import MigrationFile
from mandate.settings import Settings

NAME = "008"
VERSION = 8
SCRIPT = "008_rfc002_domain_identity_migration.sql"

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
        before_locks=(_make,),
        at_swap=(_swap,),
        after_swap=(_after_swap,),
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
    _file()
    for statement in _definitions():
        session.execute(statement.encode())


@cache
def _definitions() -> tuple[str, ...]:
    file = migrations.directory() / SCRIPT
    parts = script.read(file)
    found = tuple(part.sql for part in parts if isinstance(part, Statement) and _DEFINES.match(part.sql))
    if not found:
        raise UsageError(f"{file} does not define what the swap of 008 calls")
    return found


def _make(session: Session) -> None:
    session.execute((_SQL / "identity_swap_begin.sql").read_bytes())


def _swap(session: Session) -> None:
    session.execute((_SQL / "identity_swap.sql").read_bytes())
    migrations.record(session, VERSION, _file().path.name, _file().sha256)


@cache
def _file() -> MigrationFile:
    """What the swap writes down; read before clients wait for it."""
    return migrations.of_version(VERSION)


def _after_swap(session: Session) -> None:
    session.execute((_SQL / "identity_after_swap.sql").read_bytes())


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


def _store_names(session: Session, settings: Settings) -> None:
    """The reviewed names of domains, which the pre-checks read."""
    mapping.store(session, mapping.find(settings))


_REMOVED = (
    "SELECT COUNT(*) FROM information_schema.columns"
    " WHERE column_name = 'domain_id' AND table_schema = 'mandate';"
)
_TEXT = (
    "SELECT COUNT(*) FROM information_schema.columns"
    " WHERE table_name = 'scopes' AND column_name = 'scope_id' AND data_type = 'text';"
)
_REWRITTEN = "rewritten once"
_BACKFILLED = "backfilled with UPDATE"

MIGRATION = Migration(
    name=NAME,
    version=VERSION,
    title="RFC-002 Domain Identity",
    pre_checks_name="008_PRE_MIGRATION_CHECKS.sql",
    script_name=SCRIPT,
    verification_name="008_POST_MIGRATION_VERIFICATION.sql",
    timetable=True,
    spec=spec,
    engine=engine,
    prepare=prepare,
    before_checks=_store_names,
    proof=identity_rows.PROOF,
    proven=(
        Proven("domain_id columns completely gone", ("domain_id_columns",)),
        Proven("scope_id type is TEXT", ("scope_id_type",)),
        Proven("No NULL domains", ("attribution_null",)),
    ),
    tried=(
        Tried("scope_id domain prefix validation working", "scopes", "GOVERNANCE VIOLATION"),
        Tried("Domain format constraint enforced", "domains", "slug_format"),
    ),
    by_hand={
        "domains": "keys renamed",
        "scopes": _BACKFILLED,
        "policy_snapshots": _BACKFILLED,
        "mandate_specs": _BACKFILLED,
        "decision_events": _REWRITTEN,
        "verdict_events": _REWRITTEN,
        "audit_timeline_entries": _REWRITTEN,
    },
    log=(("Domain ID columns removed", _REMOVED), ("scope_id TEXT columns", _TEXT)),
    troubleshooting={7: "troubleshooting_7.sql", 8: "troubleshooting_8.sql"},
)
