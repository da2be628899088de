"""A bar on a terminal, for a task in progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Task as RichTask
from rich.text import Text

from mandate.cli import output
from mandate.progress import Task


@contextmanager
def task(
    console: Console, label: str, total: float | None, unit: str, expected_seconds: float | None
) -> Iterator[Task]:
    """The bar of one task, gone when it ends. `unit` as in output.amount."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        _Remaining(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(label, total=total, amount="", note="", expected=expected_seconds)
        yield _LiveTask(progress, bar, unit)


class _LiveTask:
    def __init__(self, progress: Progress, task: TaskID, unit: str) -> None:
        self._progress, self._task, self._unit = progress, task, unit

    def update(self, done: float, *, total: float | None = None, note: str | None = None) -> None:
        changes: dict[str, Any] = {"completed": done, "amount": output.amount(done, self._unit)}
        if total is not None:
            changes["total"] = total
        if note is not None:
            changes["note"] = note
        self._progress.update(self._task, **changes)


class _Remaining(ProgressColumn):
    """ETA: from the rate when the total is known, else from the expected duration."""

    def render(self, task: RichTask) -> Text:
        expected = task.fields.get("expected")
        if task.total and task.completed:
            left = task.time_remaining
        elif expected:
            left = max(0.0, expected - (task.elapsed or 0.0))
        else:
            left = None
        return Text("" if left is None else f"ETA {output.seconds(left)}", style="dim")
