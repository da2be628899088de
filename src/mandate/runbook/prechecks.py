"""The pre-checks as a step runs them: mapping stored, transcript kept, failures named."""

from __future__ import annotations

from typing import Any

from mandate.errors import CheckFailed
from mandate.postgres.connection import Session
from mandate.runbook import checks, modes
from mandate.runbook.step import Context


def run(context: Context, transcript: str) -> dict[str, Any]:
    """Run the guide's file; its evidence. Raises CheckFailed naming every check that did not pass."""
    migration = context.migration
    with context.session() as session:
        migration.before_checks(session, context.settings)
        if modes.by_engine(context.options.mode):
            expect_engine(session)
        report = checks.run(session, migration.pre_checks, context.reporter, fixes=migration.fixes)
        checks.clean_up(session)
    (context.directory / transcript).write_text(report.transcript, "utf-8")
    evidence = {**report.as_evidence(), "transcript": transcript}
    if not report.passed:
        raise _failed(migration.name, report, evidence)
    return evidence


def expect_engine(session: Session) -> None:
    """Tell the pre-checks that the engine migrates: what it goes on with is no leftover."""
    session.execute("SELECT set_config('mandate.by_engine', 'on', false)")


def _failed(migration: str, report: checks.Report, evidence: dict[str, Any]) -> CheckFailed:
    names = ", ".join(check.id for check in report.failing())
    return CheckFailed(
        f"{len(report.failing())} of {len(report.checks)} pre-checks did not pass: {names};"
        " nothing was changed",
        hint=f"`mandate diagnose {migration}` shows the rows and how to repair them",
        evidence=evidence,
    )
