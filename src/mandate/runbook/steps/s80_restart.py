"""Step 9 of the guide: start the services and wait until they are ready."""

from __future__ import annotations

from mandate.errors import ServiceFailed
from mandate.runbook import readiness, services
from mandate.runbook.services import program
from mandate.runbook.services.adapter import Adapter
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
        if context.services_up:
            return _still_up(context, adapter, url)
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


def _still_up(context: Context, adapter: Adapter, url: str) -> Outcome:
    """Online: those that ran before still run, and answer."""
    before = context.results.get("stop", {}).get("services", {}).get("running", [])
    running = adapter.running()
    if gone := sorted(set(before) - set(running)):
        raise ServiceFailed(
            program.with_log(f"{', '.join(gone)} ended while the migration ran", adapter.log_tail(gone)),
            hint="start it, then run again: the run goes on from this step",
            services=gone,
        )
    evidence = {"kind": adapter.kind, "started": [], "stayed": running}
    if not running and adapter.kind != "command":
        return Outcome("no service was running before the migration", {"services": evidence}, skipped=True)
    limit = context.settings.services.ready_timeout_seconds
    seconds = readiness.wait(url, adapter, running, limit, context.reporter)
    return Outcome(
        f"not needed: {', '.join(running) or 'the services'} stayed up and ready",
        {"services": evidence, "ready_url": url, "ready_seconds": round(seconds, 3)},
    )


STEP = Restart()
