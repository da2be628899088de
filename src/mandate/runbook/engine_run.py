"""A migration by the rekey engine, as steps of a run see it: there, and back again without loss."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mandate.errors import DatabaseError, MigrationFailed, OutcomeUnknown, VerificationFailed
from mandate.postgres.connection import Session
from mandate.progress import Indented
from mandate.rekey import journal, load
from mandate.rekey.engine import Engine
from mandate.rekey.fingerprint import Fingerprint
from mandate.rekey.options import Options
from mandate.runbook import migrations
from mandate.runbook.migration import Migration
from mandate.runbook.step import Context

# Where a step's own line has its text.
_UNDER_A_STEP = 11

_ORPHANS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = ANY (%s) AND datname = current_database()"
)
_POLL_SECONDS = 0.05


def engine(context: Context) -> Engine:
    """The engine for a run's database, with the run's options.

    While services are up half of the processors are theirs, and the server's limits are kept.
    """
    limits = load.Limits() if context.services_up else None
    jobs = jobs_of(context.options.jobs, services_up=context.services_up)
    options = Options(jobs, limits, context.options.accept, swap=context.options.swap)
    return context.migration.engine(context.target, Indented(context.reporter, _UNDER_A_STEP), options)


def jobs_of(jobs: int, *, services_up: bool) -> int:
    """Sessions that the engine works with."""
    return max(1, jobs // 2) if services_up else jobs


def end_orphans(session: Session, migration: Migration) -> None:
    """End sessions of an engine whose process died; for who holds the run's lock: none can be alive.

    Returns when they are gone: what they were sent may be a COMMIT.
    """
    names = [f"mandate-rekey-{migration.name}", f"mandate-load-{migration.name}"]
    while session.value(_ORPHANS, (names,)):
        time.sleep(_POLL_SECONDS)


def under_way(session: Session, migration: Migration) -> bool:
    """Whether the engine has something in this database: a half-built change, or a reverse window."""
    change = journal.load(session, migration.name)
    return change is not None and change.status in ("running", "swapped")


def migrate(context: Context) -> dict[str, Any]:
    """Take the database to the new version, from wherever the engine left it; evidence as in runbook.record.

    Raises MigrationFailed and CheckFailed (the old version is in use, running again goes on), OutcomeUnknown
    when the server is away, steering.Aborted.
    """
    made, version = engine(context), context.migration.version
    _hold(context, made)
    try:
        if _version(context) != version:
            made.run()
    except (DatabaseError, VerificationFailed) as error:
        if _version_after(error, context) != version:
            raise _as_failure(error, context.migration) from error
    made.finish()
    with context.session() as session:
        record(session, context.migration)
        return figures(session, context.migration)


def _hold(context: Context, made: Engine) -> None:
    """The cutover is held before the first phase begins: nobody could be fast enough afterwards."""
    if context.options.hold_cutover:
        with context.session() as session:
            if migrations.require_version(session) != context.migration.version:
                journal.begin(session, made.spec)
                journal.ask(session, made.name, hold_cutover=True)


def _version(context: Context) -> int:
    with context.session() as session:
        return migrations.require_version(session)


def _version_after(failure: Exception, context: Context) -> int:
    """The schema version; raises OutcomeUnknown when there is nobody to ask."""
    try:
        return _version(context)
    except DatabaseError as lost:
        raise OutcomeUnknown(
            f"{failure}; whether it swapped is not known: {lost.message}",
            hint=f"when the server is back, `mandate run {context.migration.name}` finds out and goes on",
        ) from lost


def _as_failure(error: DatabaseError | VerificationFailed, migration: Migration) -> MigrationFailed:
    """What ended the engine before its swap left the database as it was."""
    return MigrationFailed(
        f"{error.message}; version {migration.before} is in use as before",
        hint=error.hint
        or f"`mandate run {migration.name}` goes on where it stopped; `mandate abort {migration.name}` drops"
        " what it built",
        **error.fields,
    )


def record(session: Session, migration: Migration) -> None:
    """Record the migration as applied."""
    file = migration.file
    migrations.record(session, file.version, file.path.name, file.sha256)


def figures(session: Session, migration: Migration) -> dict[str, Any]:
    """What the engine's journal holds of the newest change."""
    phases = journal.phases(session, migration.name)
    of = {phase.phase: phase.evidence for phase in phases}
    times: list[dict[str, Any]] = [
        {"name": phase.phase, "seconds": float(phase.evidence.get("seconds", 0.0))} for phase in phases
    ]
    swap = of.get("cutover", {})
    proofs = of.get("verify", {}).get("tables", [])
    blocked = swap.get("blocked_milliseconds")
    return {
        "method": "engine",
        "seconds": round(sum(time["seconds"] for time in times), 3),
        "phases": times,
        "fingerprints": [compared(proof) for proof in proofs],
        "blocked_milliseconds": blocked,
        "attempts": swap.get("attempts"),
        "blockers": swap.get("blockers", []),
        "locks": _locks(proofs, blocked),
    }


def compared(proof: Mapping[str, Any]) -> dict[str, Any]:
    """A proof of the engine in the form of step verify's fingerprints."""
    source, destination = str(proof["source"]), str(proof["destination"])
    return {
        "table": proof["table"],
        "rows_before": Fingerprint.parse(source).rows,
        "rows_after": Fingerprint.parse(destination).rows,
        "before": source,
        "after": destination,
        "equal": proof["equal"],
    }


def _locks(proofs: Sequence[Mapping[str, Any]], blocked: float | None) -> list[dict[str, Any]]:
    """All tables are locked together, for as long as the swap blocks."""
    seconds = None if blocked is None else blocked / 1000
    return [{"table": proof["table"], "mode": "AccessExclusiveLock", "seconds": seconds} for proof in proofs]


def roll_back(context: Context) -> dict[str, Any]:
    """The old version with everything that was written since; the engine's evidence of a swap of now.

    Raises NeedsPerson when the change is not in its reverse window.
    """
    made = engine(context)
    evidence = made.rollback()
    with context.session() as session:
        migrations.forget(session, context.migration.version)
    return evidence


def clean(context: Context) -> None:
    """Drop what a change that is under way has built; for a copy of a database that has one."""
    with context.session() as session:
        change = journal.load(session, context.migration.name)
    if change is not None and change.status == "running":
        engine(context).abort()
