"""Step 10 of the guide: smoke tests of the API and a look at the logs."""

from __future__ import annotations

from mandate.errors import VerificationFailed
from mandate.runbook import smoke
from mandate.runbook.step import Context, Outcome


class SmokeTests:
    """Evidence: calls, domain, rows_checked, logs {files, lines, found, findings, warnings}."""

    name = "smoke"
    title = "Smoke tests"
    guide = "10"
    exit_code = VerificationFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Raises VerificationFailed naming the call or the log line; its evidence is in the error."""
        marks = context.results.get("stop", {}).get("log_offsets")
        with context.session() as session:
            found = smoke.run(
                context.settings, session, context.reporter, marks=marks, since=context.started_at
            )
        found.require_passed()
        return Outcome(found.summary, found.evidence, warnings=tuple(found.warnings))


STEP = SmokeTests()
