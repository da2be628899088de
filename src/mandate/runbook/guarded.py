"""The guarded migrations that there are, and their order."""

from __future__ import annotations

from mandate.errors import NeedsPerson, UsageError
from mandate.postgres.connection import Session
from mandate.rekey import journal as engine_journal
from mandate.runbook import identity, journal, next_action, tenant_keys
from mandate.runbook.migration import Migration
from mandate.runbook.record import REHEARSAL, RunRecord

ALL: tuple[Migration, ...] = (identity.MIGRATION, tenant_keys.MIGRATION)


def find(text: str) -> Migration:
    """`9` or `009` to the migration. Raises UsageError naming those that there are."""
    found = next((one for one in ALL if text in (one.name, str(one.version))), None)
    if found is None:
        names = " and ".join(one.name for one in ALL)
        raise UsageError(
            f"there is no guarded migration {text[:20]!r}",
            hint=f"there are {names}: mandate run {ALL[0].name}",
        )
    return found


def known(name: str) -> Migration | None:
    """The migration that a run, or a rehearsal, is recorded under; None for one of another release."""
    return next((one for one in ALL if one.name == name.removesuffix(REHEARSAL)), None)


def old_version(name: str) -> str:
    """The version that the migration of a record begins with, in words."""
    migration = known(name)
    return f"version {migration.before}" if migration else "the version before"


def newest_run(session: Session) -> RunRecord | None:
    """The newest run of any of them."""
    runs = [run for one in ALL if (run := journal.load_record(session, migration=one.name))]
    return max(runs, key=lambda run: (run.started_at, run.run_id), default=None)


def in_question(session: Session, version: int) -> Migration:
    """The migration that a person means who names none: the newest run's, else what the version leads to."""
    run = newest_run(session)
    if run is not None and (recorded := known(run.migration)) is not None:
        return recorded
    under_way = [one for one in ALL if _status(session, one) in ("running", "swapped")]
    return next(iter(under_way), None) or next((one for one in ALL if version <= one.version), ALL[-1])


def require_turn(session: Session, migration: Migration) -> None:
    """Raise NeedsPerson while there is a way back from the migration before: its tables are in step."""
    before = migration.after
    status = _status(session, before) if before else None
    if before is None or status in (None, *engine_journal.ENDED, "rolled back"):
        return
    raise NeedsPerson(
        f"migration {before.name} is not finalized: version {before.before}'s tables are still kept in step",
        hint=f"end it first: `mandate finalize {before.name}`",
    )


def require_version(version: int, migration: Migration) -> None:
    """Raise NeedsPerson for a database that this migration is not about: too early, or beyond it."""
    if version < migration.before:
        raise next_action.too_early(version, migration)
    if version > migration.version:
        last = _leading_to(version)
        raise NeedsPerson(
            f"the database is at version {version}: migration {migration.name} is behind it",
            hint=f"name migration {last.name} instead",
        )


def require_last(version: int, migration: Migration) -> None:
    """Raise NeedsPerson when another migration came after this one: the last is undone first."""
    if version <= migration.version:
        return
    last = _leading_to(version)
    raise NeedsPerson(
        f"the database is at version {version}: migration {last.name} came after {migration.name}",
        hint=f"undo it first: `mandate rollback {last.name}`",
    )


def _leading_to(version: int) -> Migration:
    return next((one for one in ALL if one.version == version), ALL[-1])


def _status(session: Session, migration: Migration) -> str | None:
    change = engine_journal.load(session, migration.name)
    return change.status if change else None
