"""Services as systemd units whose names match patterns such as `mandate-*.service`."""

from __future__ import annotations

from collections.abc import Sequence

from mandate.errors import ServiceFailed
from mandate.progress import Reporter
from mandate.runbook.services import program
from mandate.settings import ServicesSettings

_QUERY_SECONDS = 30.0
_PLAIN = ["--plain", "--no-legend", "--no-pager"]
_ALIVE = "--state=active,activating,reloading,deactivating"
_STARTED_AT_BOOT = ("enabled", "enabled-runtime", "linked", "linked-runtime", "generated")
_HINT = "run as root, or allow this user to manage the units (polkit)"


class Systemd:
    """The guide's `systemctl stop mandate-*` and `systemctl start mandate-*`.

    systemctl expands a pattern over *loaded* units only, so that `start mandate-*` starts nothing that is
    stopped and unloaded. Patterns are therefore expanded first and units named in full.
    """

    kind = "systemd"

    def __init__(self, settings: ServicesSettings) -> None:
        self._patterns = settings.units
        self._stop_timeout = settings.stop_timeout_seconds
        self._start_timeout = settings.ready_timeout_seconds

    def stop(self, reporter: Reporter) -> list[str]:
        names = self.running()
        if not names:
            return []
        self._change(reporter, "stop", names, self._stop_timeout)
        if left := [name for name in self.running() if name in names]:
            raise ServiceFailed(
                program.with_log(
                    f"still running after systemctl stop: {', '.join(left)}", self.log_tail(left)
                ),
                hint=f"systemctl status {' '.join(left)}",
                services=left,
            )
        return names

    def start(self, reporter: Reporter, names: Sequence[str] = ()) -> list[str]:
        """Starts `names` and every unit that a boot would start."""
        wanted = sorted({*names, *self._at_boot()})
        if not wanted:
            raise ServiceFailed(
                f"no unit to start: nothing that is enabled matches {' '.join(self._patterns)}",
                hint="systemctl enable the units, or name them in services.units of mandate.toml",
            )
        self._change(reporter, "start", wanted, self._start_timeout)
        # `systemctl start` returns before a simple service has had time to die.
        if dead := [name for name in self._units("--state=failed") if name in wanted]:
            raise ServiceFailed(
                program.with_log(f"failed right after the start: {', '.join(dead)}", self.log_tail(dead)),
                hint=f"systemctl status {' '.join(dead)}",
                services=dead,
            )
        return self.running()

    def running(self) -> list[str]:
        return self._units(_ALIVE)

    def log_tail(self, names: Sequence[str] = ()) -> str:
        units = [f"--unit={name}" for name in names or self._patterns]
        argv = ["journalctl", "--no-pager", "--output=short-iso", f"--lines={program.TAIL_LINES}", *units]
        try:
            return program.tail(program.attempt(argv, _QUERY_SECONDS).stdout)
        except ServiceFailed as error:
            return f"(the journal could not be read: {error.message})"

    def _units(self, state: str) -> list[str]:
        argv = ["systemctl", "list-units", *_PLAIN, state, *self._patterns]
        return sorted({columns[0] for columns in _table(argv)})

    def _at_boot(self) -> list[str]:
        argv = ["systemctl", "list-unit-files", *_PLAIN, *self._patterns]
        return [
            columns[0]
            for columns in _table(argv)
            if columns[1] in _STARTED_AT_BOOT and not columns[0].partition(".")[0].endswith("@")
        ]

    def _change(self, reporter: Reporter, verb: str, names: Sequence[str], timeout_seconds: float) -> None:
        argv = ["systemctl", "--no-ask-password", verb, *names]
        reporter.line(f"$ {' '.join(argv)}")
        result = program.run(argv, timeout_seconds, hint=_HINT)
        # For instance: "can still be activated by: mandate-serve.socket".
        for line in result.stderr.strip().splitlines():
            reporter.line(f"  systemctl: {line}")


def _table(argv: Sequence[str]) -> list[list[str]]:
    lines = program.run(argv, _QUERY_SECONDS, hint="is this machine run by systemd?").stdout.splitlines()
    return [columns for line in lines if len(columns := line.split()) >= 2]
