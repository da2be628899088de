"""How long work tells somebody how far it is. Everything below cli reports through this, nothing prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def update(self, done: float, *, total: float | None = None, note: str | None = None) -> None:
        """Set the amount done (same unit as total); note is a short reason or detail to show."""


class Reporter(Protocol):
    """Where progress goes."""

    def line(self, text: str) -> None:
        """One finished line for a person."""

    def task(
        self,
        label: str,
        *,
        total: float | None = None,
        unit: str = "",
        expected_seconds: float | None = None,
    ) -> AbstractContextManager[Task]:
        """Work of known total (`unit`: rows, bytes, ...) or, failing that, of known expected duration."""


class Indented:
    """Another reporter's lines, as details of what it said before."""

    def __init__(self, reporter: Reporter, columns: int) -> None:
        self._reporter = reporter
        self._columns = columns

    def line(self, text: str) -> None:
        """One finished line, moved to the right."""
        self._reporter.line(" " * self._columns + text)

    def task(
        self,
        label: str,
        *,
        total: float | None = None,
        unit: str = "",
        expected_seconds: float | None = None,
    ) -> AbstractContextManager[Task]:
        """As the other reporter shows it."""
        return self._reporter.task(label, total=total, unit=unit, expected_seconds=expected_seconds)


class _SilentTask:
    def update(self, done: float, *, total: float | None = None, note: str | None = None) -> None:
        """Nobody is watching."""


class Silent:
    """A reporter for callers that want no progress."""

    def line(self, text: str) -> None:
        """Nobody is watching."""

    @contextmanager
    def task(
        self,
        label: str,
        *,
        total: float | None = None,
        unit: str = "",
        expected_seconds: float | None = None,
    ) -> Iterator[Task]:
        yield _SilentTask()
