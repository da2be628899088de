"""Services as plain processes with pid files; the guide's `kill <process-ids>`, done safely."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil

from mandate.errors import ServiceFailed
from mandate.progress import Reporter
from mandate.runbook.services import identity, program
from mandate.settings import ProcessSettings, ServicesSettings

# A service that is going to die at once (port taken, bad flag) mostly does so within this time; what takes
# longer is noticed while the restart step waits for readiness.
_EARLY_DEATH_SECONDS = 0.5
_KILL_SECONDS = 5.0
_ZOMBIE_SLICE_SECONDS = 0.5


class Processes:
    """Every `[[services.process]]` of mandate.toml, stopped in reverse order of their start."""

    kind = "process"

    def __init__(self, settings: ServicesSettings) -> None:
        self._all = settings.process
        self._stop_timeout = settings.stop_timeout_seconds

    def stop(self, reporter: Reporter) -> list[str]:
        """SIGTERM, then wait. SIGKILL only after `stop_timeout_seconds`, and then it is said."""
        return [one.name for one in reversed(self._all) if _stop(one, self._stop_timeout, reporter)]

    def start(self, reporter: Reporter, names: Sequence[str] = ()) -> list[str]:
        for one in self._all:
            _start(one, reporter)
        return [one.name for one in self._all]

    def running(self) -> list[str]:
        return [one.name for one in self._all if identity.find(one.pid_file, one.command)[0]]

    def log_tail(self, names: Sequence[str] = ()) -> str:
        chosen = [one for one in self._all if not names or one.name in names]
        tails = {one.name: program.tail_of_file(log_file(one)) for one in chosen}
        if len(tails) == 1:
            return next(iter(tails.values()))
        return "\n".join(f"{name}:\n{text}" for name, text in tails.items() if text)


def log_file(one: ProcessSettings) -> Path:
    """Where stdout and stderr go: `log_file`, else beside the pid file."""
    return one.log_file or one.pid_file.with_suffix(".log")


def _stop(one: ProcessSettings, timeout_seconds: float, reporter: Reporter) -> bool:
    process, strange = identity.find(one.pid_file, one.command)
    if strange:
        reporter.line(f"{one.name}: {strange}")
        return False
    if process is not None:
        reporter.line(f"{one.name}: SIGTERM to process {process.pid}")
        try:
            _end(one, process, timeout_seconds, reporter)
        except psutil.AccessDenied:
            raise ServiceFailed(
                f"{one.name}: not allowed to stop process {process.pid}",
                hint="run as the user that it runs as, or as root",
                pid=process.pid,
            ) from None
    identity.forget(one.pid_file)
    return process is not None


def _end(one: ProcessSettings, process: psutil.Process, timeout_seconds: float, reporter: Reporter) -> None:
    """SIGTERM to the process, then to children that it left behind; SIGKILL to what is there after that."""
    deadline = time.monotonic() + timeout_seconds
    children = _children(process)
    _signal([process], signal.SIGTERM)
    if not _wait([process], deadline):
        _signal(children, signal.SIGTERM)
    left = _wait([process, *children], deadline)
    if not left:
        return
    pids = _pids(left)
    reporter.line(f"{one.name}: SIGTERM ignored for {timeout_seconds:g} s, so SIGKILL to process {pids}")
    _signal(left, signal.SIGKILL)
    if survivors := _wait(left, time.monotonic() + _KILL_SECONDS):
        raise ServiceFailed(
            f"{one.name}: process {_pids(survivors)} survived SIGKILL (stuck in the kernel?)",
            hint=f"look at it: ps -o pid,stat,wchan:20,args -p {_pids(survivors)}",
            service=one.name,
        )


def _wait(processes: Sequence[psutil.Process], deadline: float) -> list[psutil.Process]:
    """Wait for the processes to end; those that have not by `deadline` (monotonic).

    In slices, because a zombie that nobody collects (a container without an init) never ends for psutil.
    """
    while left := [process for process in processes if not identity.dead(process)]:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        psutil.wait_procs(left, min(remaining, _ZOMBIE_SLICE_SECONDS))
    return left


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """psutil compares creation times again first, so that a reused pid is never signalled."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _pids(processes: Sequence[psutil.Process]) -> str:
    return ",".join(str(process.pid) for process in processes)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _start(one: ProcessSettings, reporter: Reporter) -> None:
    running, strange = identity.find(one.pid_file, one.command)
    if running is not None:
        return
    if strange:
        reporter.line(f"{one.name}: {strange}")
    identity.forget(one.pid_file)
    child = _launch(one)
    try:
        process = _settled(one, child)
    except BaseException:
        # Without its identity on disk nobody could stop it again.
        child.kill()
        child.wait()
        raise
    reporter.line(f"{one.name}: started as process {process.pid}")


def _launch(one: ProcessSettings) -> subprocess.Popen[bytes]:
    """The service in a session of its own, so that it outlives this terminal."""
    try:
        with _open_log(log_file(one)) as log:
            return subprocess.Popen(
                one.command,
                cwd=one.directory,
                env={**os.environ, **one.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise ServiceFailed(
            f"{one.name}: {error.filename or one.command[0]}: {error.strerror}",
            hint="check services.process in mandate.toml",
            command=program.shown(one.command),
        ) from None


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _settled(one: ProcessSettings, child: subprocess.Popen[bytes]) -> psutil.Process:
    """The service's process once it has outlived its first moment. Raises ServiceFailed if it has not.

    A program that goes into the background by itself exits 0 and leaves a pid file naming another process.
    """
    try:
        process = psutil.Process(child.pid)
        # At once: if we are killed now, the next run still knows whose process this is.
        identity.remember(one.pid_file, process)
        child.wait(_EARLY_DEATH_SECONDS)
    except psutil.NoSuchProcess:
        child.wait()
    except subprocess.TimeoutExpired:
        identity.write_pid(one.pid_file, process.pid)
        return process
    daemon = identity.find(one.pid_file, one.command)[0] if child.returncode == 0 else None
    if daemon is not None:
        identity.remember(one.pid_file, daemon)
        return daemon
    identity.forget(one.pid_file)
    code = child.returncode
    how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
    raise ServiceFailed(
        program.with_log(f"{one.name} {how} at once", program.tail_of_file(log_file(one))),
        hint=f"its log: {log_file(one)}",
        service=one.name,
        returncode=code,
    )
