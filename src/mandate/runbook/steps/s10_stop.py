"""Step 1 of the guide: stop all services, then prove that nobody else can write."""

from __future__ import annotations

from typing import Any

from mandate.errors import WriterConnected
from mandate.runbook import logs, services, smoke, writers
from mandate.runbook.services.adapter import Adapter
from mandate.runbook.step import Context, Outcome

UNSEEN = (
    "this role lacks pg_read_all_stats: it sees that nobody else is connected, and would not see what they do"
)


class Stop:
    """Evidence: services {kind, stopped}, writers [], ignored [...], sees_everything, log_offsets."""

    name = "stop"
    title = "Stop services, prove that nobody writes"
    guide = "1"
    exit_code = WriterConnected.exit_code

    def run(self, context: Context) -> Outcome:
        """Raises ServiceFailed or WriterConnected. Stopping again after a crash is fine.

        Online it only looks.
        """
        # Before the stop, so that what the services say while they stop is looked at later.
        offsets = logs.mark(smoke.log_globs(context.settings))
        adapter = services.adapter(context.settings.services)
        if context.services_up:
            return _stay_up(context, adapter, offsets)
        stopped = adapter.stop(context.reporter)
        evidence: dict[str, Any] = {
            "services": {"kind": adapter.kind, "stopped": stopped},
            "log_offsets": offsets,
        }
        evidence |= _prove(context, evidence)
        warnings = [] if evidence["sees_everything"] else [UNSEEN]
        if adapter.kind == "none":
            warnings.append("no service was stopped by this run: services.kind is none")
        return Outcome(_summary(stopped, evidence), evidence, warnings=tuple(warnings))


def _stay_up(context: Context, adapter: Adapter, offsets: dict[str, Any]) -> Outcome:
    """Online nothing is stopped; who writes is written down for whoever reads the report."""
    running = adapter.running()
    with context.session() as session:
        ignore = context.settings.services.ignore_applications
        others = writers.connected(session, context.application_name, ignore)
    evidence = {
        "services": {"kind": adapter.kind, "stopped": [], "running": running},
        "writers": [one.as_dict() for one in others],
        "log_offsets": offsets,
    }
    names = f" ({', '.join(running)})" if running else ""
    count = f"{len(others)} other session{'' if len(others) == 1 else 's'} connected"
    return Outcome(f"not needed: services stay up{names}; {count}", evidence)


def _prove(context: Context, so_far: dict[str, Any]) -> dict[str, Any]:
    ignore = context.settings.services.ignore_applications
    with context.session() as session, context.reporter.task("looking for other writers") as task:
        task.update(0)
        sees_all = writers.sees_everything(session)
        left = writers.wait_until_gone(session, context.application_name, ignore)
        ignored = [one.as_dict() for one in writers.split(session, context.application_name, ignore)[1]]
        found = {"writers": [], "ignored": ignored, "sees_everything": sees_all}
        if left:
            found["writers"] = [one.as_dict() for one in left]
            raise writers.refusal(left, sees_all=sees_all, evidence=so_far | found)
    return found


def _summary(stopped: list[str], evidence: dict[str, Any]) -> str:
    services_text = f"stopped {', '.join(stopped)}" if stopped else "no service was running"
    ignored = f" ({len(evidence['ignored'])} ignored as configured)" if evidence["ignored"] else ""
    return f"{services_text}; no other writer is connected{ignored}"


STEP = Stop()
