"""Guide step 5: the migration, by the rekey engine or by the hand-run file through psql."""

from __future__ import annotations

from dataclasses import dataclass

from mandate.errors import DatabaseError, MigrationFailed, OutcomeUnknown
from mandate.postgres.connection import Session
from mandate.runbook import engine_run, handrun, migrations, modes, writers
from mandate.runbook.step import Context, Outcome


@dataclass(frozen=True)
class Migrate:
    name: str = "migrate"
    title: str = "Migration"
    guide: str = "5"
    exit_code: int = MigrationFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Migrate; whatever is said on the way, the schema version decides how it went.

        Raises MigrationFailed with the database as it was, OutcomeUnknown when the server went away,
        WriterConnected when somebody came back.
        """
        by_engine, version = modes.by_engine(context.options.mode), context.migration.version
        with context.session() as session:
            handrun.wait_until_gone(session, context.application_name, terminate=False)
            if not by_engine and migrations.require_version(session) == version:
                return _found_done(version)
            if not context.services_up and migrations.require_version(session) != version:
                _require_no_writer(session, context)
        return _by_engine(context) if by_engine else _by_hand(context)


def _by_engine(context: Context) -> Outcome:
    evidence = engine_run.migrate(context)
    blocked = evidence["blocked_milliseconds"]
    if not evidence["phases"]:
        return _found_done(context.migration.version)
    waited = "" if blocked is None else f"; tables were locked for {blocked:.0f} ms"
    return Outcome(f"built, verified and swapped in {evidence['seconds']:.1f} s{waited}", evidence)


def _found_done(version: int) -> Outcome:
    return Outcome(f"found done: the database is at version {version}", {"method": "found done"})


def _by_hand(context: Context) -> Outcome:
    version = context.migration.version
    try:
        evidence = handrun.run(_request(context), context.reporter)
    except (MigrationFailed, OSError) as error:
        if _version_after(error, context) == version:
            return Outcome("committed, although psql did not live to say so", {"method": "plain-sql"})
        raise
    if _version(context) != version:
        raise MigrationFailed(
            f"psql ended well and the database is not at version {version}",
            hint=f"read {evidence['transcript']} in the run directory",
        )
    with context.session() as session:
        engine_run.record(session, context.migration)
    return Outcome(f"committed after {evidence['seconds']:.1f} s", evidence)


def _require_no_writer(session: Session, context: Context) -> None:
    left = writers.wait_until_gone(
        session, context.application_name, context.settings.services.ignore_applications
    )
    if left:
        raise writers.refusal(left, sees_all=writers.sees_everything(session))


def _request(context: Context) -> handrun.Request:
    rehearsed = context.results.get("rehearse", {}).get("statements", [])
    return handrun.Request(
        target=context.target,
        migration=context.migration.name,
        file=context.migration.script,
        transcript=context.directory / "migrate.txt",
        application_name=context.application_name,
        lock_timeout_seconds=context.options.lock_timeout_seconds,
        expected=[float(statement["seconds"]) for statement in rehearsed],
    )


def _version_after(failure: Exception, context: Context) -> int:
    """The schema version; raises OutcomeUnknown when there is nobody to ask."""
    try:
        return _version(context)
    except DatabaseError as lost:
        raise OutcomeUnknown(
            f"{failure}; whether it committed is not known: {lost.message}",
            hint=f"when the server is back, `mandate run {context.migration.name}` finds out and goes on",
        ) from lost


def _version(context: Context) -> int:
    with context.session() as session:
        return migrations.require_version(session)


STEP = Migrate()
