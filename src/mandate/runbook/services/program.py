"""Running a service manager's program: bounded in time, its last lines kept, never through a shell."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mandate.errors import ServiceFailed
from mandate.postgres.connection import redact

TAIL_LINES = 10
_TAIL_BYTES = 16_384
_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Result:
    """How a program ended and what it said (the last 16 KiB of each stream)."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Its last lines: stderr, or stdout when stderr is empty."""
        return tail(self.stderr.strip() or self.stdout.strip())


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last `lines` lines, passwords redacted."""
    return "\n".join(redact(text).strip().splitlines()[-lines:])


def tail_of_file(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a file; empty when it cannot be read."""
    try:
        with path.open("rb") as source:
            source.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return tail(source.read().decode("utf-8", "replace"), lines)
    except OSError:
        return ""


def shown(argv: Sequence[str]) -> str:
    """A command line for people, passwords redacted."""
    return redact(" ".join(argv))


def with_log(message: str, log: str) -> str:
    """The message and, indented below it, what the service said last."""
    return message + "".join(f"\n  | {line}" for line in log.splitlines())


def attempt(argv: Sequence[str], timeout_seconds: float) -> Result:
    """Run to the end, whatever the exit status. Raises ServiceFailed when it cannot start or hangs.

    Output goes to files, not pipes: a daemon that the program leaves behind may hold them open for ever.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            raise ServiceFailed(
                f"{argv[0]} cannot be run: {error.strerror or error}",
                hint="check services in mandate.toml and PATH",
                command=shown(argv),
            ) from None
        try:
            returncode = process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            said = _read(err) or _read(out)
            raise ServiceFailed(
                f"`{shown(argv)}` did not finish within {timeout_seconds:g} s and was ended"
                f"{_colon(tail(said))}",
                hint="see what holds it up, or raise the timeout in [services] of mandate.toml",
                command=shown(argv),
            ) from None
        except BaseException:
            _end(process)
            raise
        return Result(returncode, _read(out), _read(err))


def run(argv: Sequence[str], timeout_seconds: float, *, hint: str | None = None) -> Result:
    """Like `attempt`, and a non-zero exit status raises ServiceFailed with the last lines said."""
    result = attempt(argv, timeout_seconds)
    if result.returncode != 0:
        raise failed(argv, result, hint)
    return result


def failed(argv: Sequence[str], result: Result, hint: str | None = None) -> ServiceFailed:
    """The error for a program that ended badly."""
    code = result.returncode
    how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
    return ServiceFailed(
        f"`{shown(argv)}` {how}{_colon(result.said or 'it said nothing')}",
        hint=hint,
        command=shown(argv),
        returncode=code,
    )


def _colon(text: str) -> str:
    return f": {text}" if text else ""


def _read(stream: IO[bytes]) -> str:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL_BYTES))
    return stream.read().decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it started in its session: SIGTERM first, SIGKILL if that is ignored."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
    process.wait()
