"""Migration 009 on the engine: its spec from 009.toml, and what changes beside the tables at the swap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mandate.errors import CheckFailed, UsageError
from mandate.postgres import script
from mandate.postgres.connection import Session, Target, sql
from mandate.postgres.script import Statement
from mandate.progress import Reporter
from mandate.rekey import cutover, journal
from mandate.rekey import spec as rekey_spec
from mandate.rekey.engine import Engine
from mandate.rekey.options import Hooks, Options
from mandate.rekey.spec import Spec
from mandate.runbook import identity, migrations, tenant_probes
from mandate.runbook.migration import Migration, Proven, Tried
from mandate.runbook.proof import SCHEMA, Proof

NAME = "009"
VERSION = 9

_SQL = Path(__file__).parent / "sql"
# Statements of the hand-run file that make what the swap calls.
_DEFINES = re.compile(r"\s*CREATE OR REPLACE FUNCTION pg_temp\.m009_")
# Clients wait for the whole swap, which has a little more to do here than moving tables.
OFFLINE_SWAP = cutover.Options(deadline_seconds=60.0, lock_timeout_seconds=10.0, largest_backlog=100_000)


@cache
def spec() -> Spec:
    """What 009.toml says. Raises UsageError naming what is wrong in it."""
    return rekey_spec.read(migrations.directory() / f"{NAME}.toml")


def engine(target: Target, reporter: Reporter, options: Options | None = None) -> Engine:
    """The engine that takes a database from version 8 to 9, and back; it raises what `Engine` raises.

    The hooks of `options` are set here: they are part of 009.
    """
    chosen = options or Options(swap=OFFLINE_SWAP)
    hooks = Hooks(begin=(_require,), before_swap=(_define,), at_swap=(_swap,), at_swap_back=(_swap_back,))
    return Engine(target, spec(), chosen.with_hooks(hooks), reporter)


def _require(session: Session) -> None:
    """Raise CheckFailed where version 9 cannot follow, or not yet."""
    version = migrations.require_version(session)
    if version < VERSION - 1:
        raise CheckFailed(
            f"the database is at version {version}; migration 009 follows 008",
            hint="mandate run 008",
        )
    if version == VERSION:
        return
    before = journal.load(session, identity.NAME) if journal.exists(session) else None
    if before is not None and before.status not in (*journal.ENDED, "rolled back"):
        raise CheckFailed(
            f"migration 008 is {before.status}: its old tables are still kept in step",
            hint="end it first: `mandate finalize 008`",
        )
    with session.transaction():
        _define(session)
        problems = [
            row["problem"] for row in session.rows("SELECT p AS problem FROM pg_temp.m009_problems() p")
        ]
    if problems:
        raise CheckFailed(
            "the data does not fit version 9:\n" + "\n".join(f"  {problem}" for problem in problems),
            hint="`mandate diagnose 009` shows the rows; nothing was changed",
            problems=problems,
        )


def _define(session: Session) -> None:
    """Before anything is locked: making functions takes longer than calling them."""
    for statement in _definitions():
        session.execute(statement.encode())


@cache
def _definitions() -> tuple[str, ...]:
    file = migrations.of_version(VERSION).path
    parts = script.read(file)
    found = tuple(part.sql for part in parts if isinstance(part, Statement) and _DEFINES.match(part.sql))
    if not found:
        raise UsageError(f"{file} does not define what the swap of 009 calls")
    return found


def _swap(session: Session) -> None:
    session.execute((_SQL / "tenant_keys_swap.sql").read_bytes())
    file = migrations.of_version(VERSION)
    migrations.record(session, file.version, file.path.name, file.sha256)


def _swap_back(session: Session) -> None:
    session.execute((_SQL / "tenant_keys_swap_back.sql").read_bytes())
    migrations.forget(session, VERSION)


def _rows(session: Session, table: str, columns: Sequence[str], migrated: bool) -> sql.Composable | None:
    """No value changes; what decision_events has more is a column that version 8 does not know."""
    if table != "decision_events":
        return None
    kept = [sql.Identifier(column) for column in columns if column != "received_at"]
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(kept), sql.Identifier(SCHEMA, table))


_KEYS = (
    "SELECT COUNT(*) FROM pg_index i"
    " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
    " WHERE i.indisprimary AND a.attname = 'organization_id'"
    " AND i.indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'mandate'::regnamespace);"
)
_EVENTS = "SELECT COUNT(*) FROM mandate.spec_events;"
_KEYED = "keys and indexes changed"

MIGRATION = Migration(
    name=NAME,
    version=VERSION,
    title="Tenant Keys",
    pre_checks_name="009_PRE_MIGRATION_CHECKS.sql",
    script_name="009_tenant_keys.sql",
    verification_name="009_POST_MIGRATION_VERIFICATION.sql",
    spec=spec,
    engine=engine,
    after=identity.MIGRATION,
    proof=Proof(new=frozenset({"spec_events", "migration_log"}), rows=_rows),
    probes=tenant_probes.tenant,
    proven=(
        Proven("Every key begins with organization_id", ("primary_keys", "unique_keys")),
        Proven("Foreign keys carry organization and domain", ("foreign_keys",)),
        Proven("No row points across organizations or domains", ("across",)),
        Proven("Every active spec was activated by an event", ("never_activated",)),
        Proven("Decisions have a time of receipt", ("received_at",)),
    ),
    tried=(
        Tried("No verdict reaches into another organization", "verdict_events", "domain_decision_fkey"),
        Tried("scope_id domain prefix validation working", "scopes", "GOVERNANCE VIOLATION"),
    ),
    by_hand={
        "scopes": _KEYED,
        "policy_snapshots": _KEYED,
        "decision_events": "rewritten once",
        "verdict_events": _KEYED,
        "audit_timeline_entries": _KEYED,
        "mandate_specs": _KEYED,
        "identity_map": _KEYED,
    },
    log=(
        ("Tables whose key begins with organization_id", _KEYS),
        ("Spec activations and retirements", _EVENTS),
    ),
    troubleshooting={8: "troubleshooting_009_before.sql", 9: "troubleshooting_009_after.sql"},
)
