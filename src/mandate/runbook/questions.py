"""The go/no-go questions of a run. Pure."""

from __future__ import annotations

from mandate.runbook import modes
from mandate.runbook.record import RunRecord


def before(step: str, record: RunRecord, services: str) -> str | None:
    """The question to ask before a step, or None. `services`: services.kind of mandate.toml."""
    if record.mode == modes.ONLINE and step in ("stop", "restart"):
        return None
    if step == "stop" and services == "none":
        return f"No services are configured. Is everything stopped that writes to {record.database}?"
    if step == "stop":
        return f"Stop the services that write to {record.database}?"
    if step == "migrate":
        return f"Migrate {record.database} now? ({_ready(record)})"
    if step == "restart" and services != "none" and modes.by_engine(record.mode):
        back = f"`mandate rollback {record.migration}`"
        return f"Restart the services? {back} stays possible without loss until finalize."
    if step == "restart" and services != "none":
        return (
            "Restart the services? From here on new rows are written: going back to the backup"
            " would mean exporting them first (point of no return)."
        )
    return None


def _ready(record: RunRecord) -> str:
    parts = [
        f"{step.name} {step.status}" for step in record.steps if step.name in ("backup", "rehearse", "check")
    ]
    migrate = record.step("migrate")
    if migrate and migrate.planned_seconds:
        parts.append(f"planned {migrate.planned_seconds:.0f} s")
    return ", ".join(parts)
