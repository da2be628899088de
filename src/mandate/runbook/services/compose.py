"""Services in containers, by `docker compose` or `docker-compose`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from shutil import which

from mandate.errors import ServiceFailed
from mandate.progress import Reporter
from mandate.runbook.services import program
from mandate.settings import ServicesSettings

_PROBE_SECONDS = 30.0


class Compose:
    """The guide's `docker-compose down` and `up -d`, on `services.compose_file`."""

    kind = "compose"

    def __init__(self, settings: ServicesSettings) -> None:
        self._file = settings.compose_file
        self._stop_timeout = settings.stop_timeout_seconds
        self._start_timeout = settings.ready_timeout_seconds

    def stop(self, reporter: Reporter) -> list[str]:
        names = self.running()
        # Even when nothing runs: a paused or restarting container is not listed and holds its connections.
        self._run(reporter, "down", timeout_seconds=self._stop_timeout)
        if left := self.running():
            raise ServiceFailed(
                f"still running after `{' '.join(self._argv('down'))}`: {', '.join(left)}",
                hint=f"look at them with `{' '.join(self._argv('ps'))}`",
                services=left,
            )
        return names

    def start(self, reporter: Reporter, names: Sequence[str] = ()) -> list[str]:
        self._run(reporter, "up", "-d", timeout_seconds=self._start_timeout)
        started = self.running()
        if not started:
            raise ServiceFailed(
                program.with_log(
                    f"`{' '.join(self._argv('up', '-d'))}` left no service running", self.log_tail()
                ),
                hint=f"look at them with `{' '.join(self._argv('ps', '-a'))}`",
            )
        return started

    def running(self) -> list[str]:
        # The one spelling that version 1 and 2 share. Some releases of 2.0 list stopped containers too, which
        # errs to the safe side: after `down` there are none.
        argv = self._argv("ps", "--services", "--filter", "status=running")
        return sorted(set(program.run(argv, _PROBE_SECONDS).stdout.split()))

    def log_tail(self, names: Sequence[str] = ()) -> str:
        argv = self._argv("logs", "--no-color", f"--tail={program.TAIL_LINES}", *names)
        return program.tail(program.attempt(argv, _PROBE_SECONDS).stdout)

    def _run(self, reporter: Reporter, *arguments: str, timeout_seconds: float) -> None:
        argv = self._argv(*arguments)
        reporter.line(f"$ {' '.join(argv)}")
        program.run(argv, timeout_seconds)

    def _argv(self, *arguments: str) -> list[str]:
        file = ["-f", str(self._file)] if self._file else []
        return [*self._program, *file, *arguments]

    @cached_property
    def _program(self) -> list[str]:
        """`docker compose` when it works, else `docker-compose`; the plugin may be absent from docker."""
        if which("docker") and _works(["docker", "compose", "version"]):
            return ["docker", "compose"]
        if which("docker-compose"):
            return ["docker-compose"]
        raise ServiceFailed(
            "neither `docker compose` nor `docker-compose` is installed",
            hint="install one of them, or choose another services.kind in mandate.toml",
        )


def _works(argv: Sequence[str]) -> bool:
    return program.attempt(argv, _PROBE_SECONDS).returncode == 0
