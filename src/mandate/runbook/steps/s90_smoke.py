"""Step 10 of the guide: smoke tests of the API and a look at the logs."""

from __future__ import annotations

from mandate.errors import VerificationFailed
from mandate.runbook import http, smoke
from mandate.runbook.step import Context, Outcome


class SmokeTests:
    """Evidence: calls, domain, rows_checked, logs {files, lines, found, findings, warnings}."""

    name = "smoke"
    title = "Smoke tests"
    guide = "10"
    exit_code = VerificationFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Raises VerificationFailed naming the call or the log line; its evidence is in the error.

        Skipped when this run manages no service and none answers: there is nothing yet to test.
        """
        if context.settings.services.kind == "none" and (why := _silent(context)) is not None:
            return Outcome(
                f"not tested: no service is configured and none answers ({why})",
                skipped=True,
                warnings=("start the services, then `mandate smoke` tests them",),
            )
        marks = context.results.get("stop", {}).get("log_offsets")
        with context.session() as session:
            found = smoke.run(
                context.settings, session, context.reporter, marks=marks, since=context.started_at
            )
        found.require_passed()
        return Outcome(found.summary, found.evidence, warnings=tuple(found.warnings))


def _silent(context: Context) -> str | None:
    """Why nobody answers at the base URL; None when somebody does, whatever the answer."""
    try:
        http.get(context.settings.smoke.base_url, context.settings.smoke.timeout_seconds, limit_bytes=1 << 20)
    except http.NoAnswer as error:
        return str(error)
    return None


STEP = SmokeTests()
