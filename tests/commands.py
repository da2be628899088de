"""The `mandate` command as a real process, and functions run as another user."""

from __future__ import annotations

import os
import pickle
import pwd
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

MANDATE = Path(sys.executable).with_name("mandate")
# Nobody listens there; on the default port somebody might, and be smoke-tested.
NO_SERVICE = "http://localhost:1"


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without anything that points at a database, or at a service that answers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "MANDATE_")) and name != "DATABASE_URL"
    }
    return {**kept, "MANDATE_SMOKE__BASE_URL": NO_SERVICE, **(extra or {})}


def mandate(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run `mandate ...` to its end."""
    return subprocess.run(
        [str(MANDATE), *map(str, arguments)],
        env=clean_environment(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def spawn(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `mandate ...` in a session of its own and return at once."""
    return subprocess.Popen(
        [str(MANDATE), *map(str, arguments)],
        env=clean_environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class FailedThere(AssertionError):
    """The function failed in the other user's process; the message is its traceback."""


def as_user(name: str, function: Callable[[], T]) -> T:
    """Run `function` in a forked process of user `name` (as root only); its result must pickle."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _answer(name, function, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        ok, value = pickle.loads(pipe.read())
    os.waitpid(pid, 0)
    if not ok:
        raise FailedThere(value)
    result: T = value
    return result


def _answer(name: str, function: Callable[[], Any], descriptor: int) -> NoReturn:
    answer: tuple[bool, Any] = (False, "")
    try:
        entry = pwd.getpwnam(name)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        answer = (True, function())
    finally:
        # Never returns: the parent's test run must not go on in this process too.
        if not answer[0]:
            answer = (False, traceback.format_exc())
        with os.fdopen(descriptor, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)
