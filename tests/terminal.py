"""A command of mandate on a terminal of its own: what it shows, what is typed, how it ends."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.commands import MANDATE, clean_environment

from mandate.postgres.connection import Target


@dataclass
class Terminal:
    """The other side of the terminal. `shown` is all that was written to it so far."""

    process: subprocess.Popen[bytes]
    _fd: int
    shown: str = ""

    def wait_for(self, pattern: str, timeout: float = 60) -> None:
        """Until what was shown since the last key matches; fails with the screen when it ends before."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.shown, re.DOTALL):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} on:\n{self.shown}"
            assert self._read(left), f"ended before {pattern!r}:\n{self.shown}"

    def type(self, keys: str) -> None:
        """Press keys; \\x03 is Ctrl-C, \\x04 Ctrl-D. What was shown before is forgotten."""
        self.shown = ""
        os.write(self._fd, keys.encode())

    def finish(self, timeout: float = 120) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            assert time.monotonic() < deadline, self.shown
        return self.process.wait(timeout)

    def _read(self, timeout: float) -> bool:
        if not select.select([self._fd], [], [], max(0.0, timeout))[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            # What Linux says once nobody has the other side open.
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)


@contextmanager
def terminal(target: Target, directory: Path, *arguments: str) -> Iterator[Terminal]:
    """Start `mandate ...` with a new terminal as its controlling one; killed at the end if need be."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(MANDATE), *arguments],
        cwd=directory,
        env=clean_environment({"DATABASE_URL": target.conninfo, "TERM": "xterm", "COLUMNS": "80"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


def _take_terminal() -> None:
    os.setsid()
    os.close(os.open(os.ttyname(0), os.O_RDWR))
