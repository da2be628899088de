"""The only printing: data on stdout, progress and logs on stderr, text or JSON."""

from __future__ import annotations

import json
import os
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from rich.console import Console
from rich.text import Text

from mandate.errors import MandateError
from mandate.progress import Task

SCHEMA_VERSION = 1


_CHOICES = " [y/N]: "
_ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": False}


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def emit(format: Format, kind: str, data: Mapping[str, Any], text: Callable[[], str]) -> None:
    """Write a command's result: JSON `{"schema": "mandate.<kind>/1", ...data}` or `text()`."""
    if format is Format.JSON:
        document = {"schema": f"mandate.{kind}/{SCHEMA_VERSION}", **data}
        print(json.dumps(document, default=encode, ensure_ascii=False))
    else:
        stdout.print(text(), markup=False)


def encode(value: Any) -> Any:
    """JSON for the types that evidence is made of."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path | UUID):
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def confirm(question: str) -> bool:
    """Ask the terminal on stdin, no by default. Ctrl-C stays Ctrl-C; the end of input is a no."""
    lines = textwrap.wrap(question, 80 - len(_CHOICES), break_long_words=False)
    # A key pressed while a step ran was not an answer to this.
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    while True:
        stderr.print("\n".join(lines) + _CHOICES, markup=False, end="")
        typed = sys.stdin.buffer.readline()
        if not typed:
            stderr.print()
            return False
        answer = typed.decode("utf-8", "replace").strip().lower()
        if answer in _ANSWERS:
            return _ANSWERS[answer]
        stderr.print("y or n, please", markup=False)


def fail(error: MandateError, format: Format) -> NoReturn:
    """Show an error and exit with its code."""
    if format is Format.JSON:
        document = {"schema": f"mandate.error/{SCHEMA_VERSION}", "error": error.as_dict()}
        print(json.dumps(document, default=str, ensure_ascii=False))
    complain(error)
    raise SystemExit(error.exit_code)


def complain(error: MandateError) -> None:
    """Show an error with its causes and what to do next on stderr."""
    stderr.print(Text.assemble(("error: ", "bold red"), error.message))
    for cause in _causes(error):
        stderr.print(Text(f"  because: {cause}", style="dim"))
    if error.hint:
        stderr.print(Text.assemble(("next: ", "bold"), error.hint))


def _causes(error: BaseException) -> Iterator[str]:
    seen = str(error)
    cause = error.__cause__
    passed = {error}
    while cause is not None and cause not in passed:
        passed.add(cause)
        text = str(cause).strip()
        if isinstance(cause, MandateError) and text not in seen:
            yield text
        cause = cause.__cause__


def seconds(value: float) -> str:
    """1:02:03, 2:03 or 3 s."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ConsoleReporter:
    """Progress on stderr: a live bar on a terminal, else a line every ten seconds."""

    PLAIN_INTERVAL_SECONDS = 10.0

    def __init__(self, format: Format = Format.TEXT) -> None:
        self._json = format is Format.JSON
        self._live = stderr.is_terminal and not self._json and "CI" not in os.environ

    def line(self, text: str) -> None:
        """One finished line for a person."""
        if not self._json:
            stderr.print(text, markup=False)

    @contextmanager
    def task(
        self,
        label: str,
        *,
        total: float | None = None,
        unit: str = "",
        expected_seconds: float | None = None,
    ) -> Iterator[Task]:
        if not self._live:
            yield _PlainTask(self, label, total, unit, expected_seconds)
            return
        # Bars are worth their import only where somebody sees them.
        from mandate.cli import live

        with live.task(stderr, label, total, unit, expected_seconds) as shown:
            yield shown


class _PlainTask:
    def __init__(
        self,
        reporter: ConsoleReporter,
        label: str,
        total: float | None,
        unit: str,
        expected_seconds: float | None,
    ) -> None:
        self._reporter, self._label, self._total, self._unit = reporter, label, total, unit
        self._expected = expected_seconds
        self._started = self._said = time.monotonic()

    def update(self, done: float, *, total: float | None = None, note: str | None = None) -> None:
        self._total = total or self._total
        now = time.monotonic()
        if now - self._said < self._reporter.PLAIN_INTERVAL_SECONDS:
            return
        self._said = now
        parts = [f"  {self._label}: {amount(done, self._unit)}"]
        if self._total:
            parts.append(f"of {amount(self._total, self._unit)}")
        elapsed = now - self._started
        parts.append(f"({seconds(elapsed)}{self._eta(done, elapsed)})")
        self._reporter.line(" ".join(parts + ([note] if note else [])))

    def _eta(self, done: float, elapsed: float) -> str:
        if self._total and done > 0:
            return f", ETA {seconds(elapsed * (self._total - done) / done)}"
        if self._expected:
            return f", ETA {seconds(max(0.0, self._expected - elapsed))}"
        return ""


def amount(value: float, unit: str) -> str:
    """1,234,567 rows · 12.3 MiB · 12 %."""
    if unit == "bytes":
        return size(value)
    if unit == "%":
        return f"{value:.0f} %"
    return f"{value:,.0f} {unit}".rstrip()


def size(value: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def flush() -> None:
    """Push what was written to whoever reads the pipe."""
    sys.stdout.flush()
