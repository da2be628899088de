"""Which process is ours. A pid alone says nothing: the kernel gives it to somebody else later."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from mandate.errors import ServiceFailed

T = TypeVar("T")

# psutil derives the creation time from the boot time, which moves a little when the clock is corrected.
_CLOCK_SLACK_SECONDS = 2.0


@dataclass(frozen=True)
class Identity:
    """A process as it was when we started it; `created` in seconds since the epoch."""

    pid: int
    created: float
    command: list[str]

    @classmethod
    def of(cls, process: psutil.Process) -> Identity:
        """Raises psutil.Error when the process is gone or cannot be looked at."""
        return cls(process.pid, process.create_time(), process.cmdline())

    def matches(self, process: psutil.Process) -> bool:
        """The same process, and not another that was given its pid."""
        apart = abs(process.create_time() - self.created)
        return bool(process.pid == self.pid and apart <= _CLOCK_SLACK_SECONDS)


def path_beside(pid_file: Path) -> Path:
    """Where the identity is kept: `mandate-serve.pid` -> `mandate-serve.pid.json`."""
    return pid_file.with_name(pid_file.name + ".json")


def remember(pid_file: Path, process: psutil.Process) -> None:
    """Store who `process` is. Raises ServiceFailed when the disk refuses, psutil.Error when it is gone."""
    _write(path_beside(pid_file), json.dumps(asdict(Identity.of(process))), pid_file)


def write_pid(pid_file: Path, pid: int) -> None:
    """Write the pid file, unless the service has written its own. Raises ServiceFailed."""
    if not pid_file.exists():
        _write(pid_file, f"{pid}\n", pid_file)


def _write(path: Path, text: str, pid_file: Path) -> None:
    try:
        _replace(path, text)
    except OSError as error:
        raise ServiceFailed(
            f"{pid_file} cannot be written: {error.strerror}",
            hint="check the directory and its permissions (services.process.pid_file)",
        ) from None


def forget(pid_file: Path) -> None:
    """Remove both files; the service may have removed its own already. Raises ServiceFailed."""
    for path in (pid_file, path_beside(pid_file)):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ServiceFailed(
                f"{path} cannot be removed: {error.strerror}", hint="remove it, then run again"
            ) from None


def find(pid_file: Path, command: Sequence[str]) -> tuple[psutil.Process | None, str | None]:
    """The live process of a service, or None, and what is strange about its pid file, if anything.

    A process counts as ours if it is the one whose identity was stored at the start. Without a stored
    identity (somebody started the service by hand) it must run the configured command and be older than
    its pid file.
    """
    stored = _read_identity(path_beside(pid_file))
    if stored is not None and (process := _alive(stored.pid)) and _guarded(stored.matches, process):
        return process, None
    pid = _read_pid(pid_file)
    if pid is None or (process := _alive(pid)) is None:
        return None, None
    if _guarded(lambda candidate: _runs(candidate, command, pid_file), process):
        return process, None
    name = _guarded(lambda candidate: candidate.name(), process) or "unknown"
    return None, f"{pid_file} names process {pid}, which is {name} and not ours: left alone"


def _runs(process: psutil.Process, command: Sequence[str], pid_file: Path) -> bool:
    """A script's process has its interpreter in front: `mandate serve` runs as `python .../mandate serve`."""
    actual = process.cmdline()
    program, arguments = Path(command[0]).name, list(command[1:])
    split = len(actual) - len(arguments)
    older = process.create_time() <= pid_file.stat().st_mtime + _CLOCK_SLACK_SECONDS
    return older and split > 0 and actual[split:] == arguments and Path(actual[split - 1]).name == program


def dead(process: psutil.Process) -> bool:
    """Gone, or a zombie that its parent has not collected."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _alive(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if dead(process) else process
    except (psutil.Error, ValueError, OverflowError):
        return None


def _guarded(question: Callable[[psutil.Process], T], process: psutil.Process) -> T | None:
    """The answer, or None when the process went away or hides itself: then it is not known to be ours."""
    try:
        return question(process)
    except (psutil.Error, OSError):
        return None


def _read_pid(path: Path) -> int | None:
    try:
        text = path.read_text("ascii")[:32].strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() and int(text) > 1 else None


def _read_identity(path: Path) -> Identity | None:
    try:
        data = json.loads(path.read_text("utf-8"))
        return Identity(int(data["pid"]), float(data["created"]), list(data["command"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
