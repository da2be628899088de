"""Planned against actual, step by step, and the guide's own timeline table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mandate.runbook import guarded
from mandate.runbook.checklist import evidence_of, items
from mandate.runbook.record import RunRecord, StepRecord
from mandate.runbook.report.words import aware

# "Timeline Summary" of the guide: row, step that it is, minutes, critical as printed there.
_GUIDE = (
    ("Pre-execution setup", "rehearse", "15 min", "⚠️"),
    ("Services stop", "stop", "5 min", "Yes"),
    ("Database backup", "backup", "10-60 min", "YES"),
    ("Pre-migration checks", "check", "5 min", "Yes"),
    ("Migration execution", "migrate", "5-30 min", "Yes"),
    ("Post-migration checks", "verify", "5-10 min", "Yes"),
    ("Constraint testing", "probe", "5 min", "Yes"),
    ("Services restart", "restart", "5 min", "Yes"),
    ("Smoke tests", "smoke", "15 min", "⚠️"),
)
GUIDE_TOTAL = "60-150 min"


@dataclass(frozen=True)
class Span:
    """Part of the time axis, both in 0..1."""

    start: float
    length: float


@dataclass(frozen=True)
class Bar:
    """A step on the axis of working time: time between steps (a pause, a resume) takes no room.

    Plan and actual begin at the same place, so that their lengths can be compared.

    `no_return` marks the step after which going back means a restore.
    """

    step: StepRecord
    planned_seconds: float | None
    seconds: float | None
    planned: Span | None
    actual: Span | None
    no_return: bool


@dataclass(frozen=True)
class Timeline:
    """All bars and the length of the axis in seconds; `idle_seconds` is what lies between the steps.

    `planned_seconds` is the sum over the steps that have a plan and have ended, `compared_seconds` what
    those took: only these two can be compared. The point of no return is passed when its step *begins*:
    from then on somebody may be writing.
    """

    bars: tuple[Bar, ...]
    axis_seconds: float
    working_seconds: float
    planned_seconds: float | None
    compared_seconds: float | None
    idle_seconds: float
    no_return_at: datetime | None


@dataclass(frozen=True)
class GuideRow:
    """A row of the guide's timeline table with what was rehearsed and what it took."""

    name: str
    guide: str
    critical: str
    rehearsed: float | None
    actual: float | None
    status: str


def timeline(record: RunRecord, now: datetime | None = None) -> Timeline:
    """The run's bars. `now` ends the bar of a step that is still running."""
    last = record.point_of_no_return
    plans = [planned(record, step) for step in record.steps]
    actuals = [_actual(step, now) for step in record.steps]
    working = sum(took for took in actuals if took is not None)
    both = [(p, a) for p, a in zip(plans, actuals, strict=True) if p is not None and a is not None]
    starts = _starts([plan if took is None else took for plan, took in zip(plans, actuals, strict=True)])
    ends = [
        start + max(plan or 0.0, took or 0.0)
        for start, plan, took in zip(starts, plans, actuals, strict=True)
    ]
    axis = max([*ends, 0.001])
    bars = [
        Bar(step, plan, took, _span(start, plan, axis), _span(start, took, axis), step.name == last)
        for step, start, plan, took in zip(record.steps, starts, plans, actuals, strict=True)
    ]
    mark = record.step(last)
    return Timeline(
        tuple(bars),
        axis,
        working,
        sum(plan for plan, _ in both) if both else None,
        sum(took for _, took in both) if both else None,
        max(0.0, _elapsed(record, now) - working),
        mark.started_at if mark else None,
    )


def planned(record: RunRecord, step: StepRecord) -> float | None:
    """What the plan or the rehearsal says a step takes, in seconds."""
    if step.planned_seconds is not None:
        return step.planned_seconds
    rehearsal = record.step("rehearse")
    for rehearsed in items(evidence_of(rehearsal).get("steps")) if rehearsal else []:
        took = rehearsed.get("seconds")
        if rehearsed.get("name") == step.name and isinstance(took, int | float):
            return float(took)
    return None


def _actual(step: StepRecord, now: datetime | None) -> float | None:
    if step.seconds is not None:
        return max(0.0, step.seconds)
    if step.status == "running" and step.started_at and now:
        return max(0.0, (aware(now) - aware(step.started_at)).total_seconds())
    return None


def _span(start: float, length: float | None, axis: float) -> Span | None:
    return None if length is None else Span(start / axis, length / axis)


def _starts(lengths: Sequence[float | None]) -> list[float]:
    """Where each part begins when they are laid end to end."""
    starts, at = [], 0.0
    for length in lengths:
        starts.append(at)
        at += length or 0.0
    return starts


def _elapsed(record: RunRecord, now: datetime | None) -> float:
    end = record.finished_at or now
    return (aware(end) - aware(record.started_at)).total_seconds() if end else 0.0


def downtime_seconds(record: RunRecord) -> float | None:
    """From the start of `stop` to the end of `restart`: how long the services were away."""
    stop, restart = record.step("stop"), record.step("restart")
    if not stop or not restart or stop.status != "passed" or restart.status != "passed":
        return None
    if stop.started_at is None or restart.finished_at is None:
        return None
    away: timedelta = aware(restart.finished_at) - aware(stop.started_at)
    return away.total_seconds()


def total(values: Iterable[float | None]) -> float | None:
    """The sum, or None when a part of it is not known: half a sum is no figure."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if known and len(known) == len(found) else None


def guide_rows(record: RunRecord) -> tuple[GuideRow, ...]:
    """The guide's "Timeline Summary", row by row, without its total; none of a migration it is not about."""
    migration = guarded.known(record.migration)
    if migration is not None and not migration.timetable:
        return ()
    rows = []
    for name, step_name, minutes, critical in _GUIDE:
        step = record.step(step_name)
        rows.append(
            GuideRow(
                name,
                minutes,
                critical,
                planned(record, step) if step else None,
                step.seconds if step else None,
                step.status if step else "pending",
            )
        )
    return tuple(rows)
