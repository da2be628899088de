"""Step 9 of the guide: start the services and wait until they are ready."""

from __future__ import annotations

from mandate.errors import ServiceFailed
from mandate.runbook import readiness, services
from mandate.runbook.step import Context, Outcome


class Restart:
    """Evidence: services {kind, started}, ready_url, ready_seconds."""

    name = "restart"
    title = "Restart services"
    guide = "9"
    exit_code = ServiceFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Raises ServiceFailed with the last answer and the services' last lines."""
        adapter = services.adapter(context.settings.services)
        if adapter.kind == "none":
            return Outcome(
                "nobody was started: services.kind is none, somebody else starts the services",
                {"services": {"kind": "none", "started": []}},
                skipped=True,
            )
        url = readiness.url(context.settings)
        stopped = context.results.get("stop", {}).get("services", {}).get("stopped", [])
        started = adapter.start(context.reporter, stopped)
        seconds = readiness.wait(
            url,
            adapter,
            started,
            context.settings.services.ready_timeout_seconds,
            context.reporter,
            expected_seconds=context.estimates.get(self.name),
        )
        return Outcome(
            f"started {', '.join(started)}; ready after {seconds:.1f} s",
            {
                "services": {"kind": adapter.kind, "started": started},
                "ready_url": url,
                "ready_seconds": round(seconds, 3),
            },
        )


STEP = Restart()
