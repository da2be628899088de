"""Services behind plain commands of the operator's own."""

from __future__ import annotations

from collections.abc import Sequence

from mandate.progress import Reporter
from mandate.runbook.services import program
from mandate.settings import ServicesSettings

NAME = "services"

# Exit statuses of an init script's `status` (LSB): 0 runs, 1 to 3 does not, anything else cannot say.
_STOPPED = (1, 2, 3)


class Command:
    """`services.stop_command`, `start_command` and, if given, `status_command`, as plain argv."""

    kind = "command"

    def __init__(self, settings: ServicesSettings) -> None:
        self._stop = settings.stop_command
        self._start = settings.start_command
        self._status = settings.status_command
        self._stop_timeout = settings.stop_timeout_seconds
        self._start_timeout = settings.ready_timeout_seconds

    def stop(self, reporter: Reporter) -> list[str]:
        if self._status and not self.running():
            return []
        reporter.line(f"$ {program.shown(self._stop)}")
        program.run(self._stop, self._stop_timeout)
        if self.running():
            raise program.failed(self._status, program.Result(0, "the services still run", ""))
        return [NAME]

    def start(self, reporter: Reporter, names: Sequence[str] = ()) -> list[str]:
        if not self.running():
            reporter.line(f"$ {program.shown(self._start)}")
            program.run(self._start, self._start_timeout)
        return [NAME]

    def running(self) -> list[str]:
        """By `status_command`; nothing when there is none."""
        if not self._status:
            return []
        result = program.attempt(self._status, self._stop_timeout)
        if result.returncode in (0, *_STOPPED):
            return [NAME] if result.returncode == 0 else []
        raise program.failed(self._status, result, "status_command exits 0 (runs) or 1 to 3 (does not)")

    def log_tail(self, names: Sequence[str] = ()) -> str:
        return ""
