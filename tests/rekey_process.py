"""A key change of the shop in a process of its own, which dies or waits at a statement of one's choice.

Usage: python -m tests.rekey_process DSN run|rollback|finalize [die|wait WORD COUNT]
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from typing import Any

from tests.commands import clean_environment
from tests.shops import TO_BIGINT, change

from mandate.errors import MandateError
from mandate.postgres.connection import Session, Target, sql

REACHED = "reached"


class Point:
    """The `count`-th statement with `word` in it: before it is sent."""

    def __init__(self, action: str, word: str, count: int) -> None:
        self._action, self._word, self._left = action, word, count
        self._lock = threading.Lock()

    def pass_by(self, query: object) -> None:
        text = query.as_string() if isinstance(query, sql.Composable) else str(query)
        if self._word not in text:
            return
        with self._lock:
            self._left -= 1
            here = self._left == 0
        if here and self._action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if here:
            sys.stdout.write(f"{REACHED}\n")
            sys.stdout.flush()
            sys.stdin.readline()


def watch(point: Point) -> None:
    """Every statement of every session passes by the point."""
    for name in ("execute", "rows", "row"):
        original = getattr(Session, name)

        def passing(self: Session, query: Any, *arguments: Any, _original: Any = original) -> Any:
            point.pass_by(query)
            return _original(self, query, *arguments)

        setattr(Session, name, passing)


def main(dsn: str, command: str, *point: str) -> int:
    if point:
        action, word, count = point
        watch(Point(action, word, int(count)))
    try:
        getattr(change(Target.from_dsn(dsn), TO_BIGINT), command)()
    except MandateError as error:
        sys.stderr.write(error.message)
        return error.exit_code
    return 0


def start(target: Target, command: str, *point: str | int) -> subprocess.Popen[str]:
    """Begin it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.rekey_process", target.conninfo, command, *map(str, point)],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(target: Target, command: str, word: str, count: int = 1) -> None:
    """Begin it, and see it die at that statement."""
    process = start(target, command, "die", word, count)
    _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, (command, word, count, said)


def killed_within(target: Target, command: str, seconds: float, choose: random.Random) -> bool:
    """Begin it and kill it at a random time after its first statement; False when it was over before that."""
    process = start(target, command, "wait", "", 1)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    process.stdin.write("go on\n")
    process.stdin.flush()
    try:
        process.communicate(timeout=choose.random() * seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    return False


def finished(target: Target, command: str) -> None:
    """Begin it, and see it succeed."""
    process = start(target, command)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, (command, said)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
