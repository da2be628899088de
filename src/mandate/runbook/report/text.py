"""The report for a terminal: 80 columns, no colour needed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mandate.runbook.checklist import checklist, criteria, evidence_of, items
from mandate.runbook.record import RunRecord, StepRecord, Tick
from mandate.runbook.report.timeline import GUIDE_TOTAL, Bar, Timeline, guide_rows, timeline, total
from mandate.runbook.report.verdict import verdict
from mandate.runbook.report.words import cell, cleaned, clock, count, moment, plural, seconds, size

WIDTH = 80
MAX_ROWS = 5
_MARK: dict[bool | None, str] = {True: "[x]", False: "[!]", None: "[ ]"}
_STATUS = {"passed": "ok", "failed": "FAILED", "interrupted": "CUT OFF"}


def render(record: RunRecord, now: datetime | None = None) -> str:
    """The text, newline at the end. `now` is for a run that has not ended."""
    shown = cleaned(record)
    parts = (
        _top(shown),
        _next(shown),
        _timeline(timeline(shown, now)),
        _guide(shown),
        _failing(shown),
        _proof(shown),
        _ticks("Verification checklist", checklist(shown)),
        _ticks("Success criteria", criteria(shown)),
        _environment(shown),
    )
    return "\n".join(line.rstrip() for part in parts for line in part).rstrip() + "\n"


def _heading(text: str) -> list[str]:
    return ["", text, "-" * len(text)]


def _wrap(text: str, indent: str = "", first: str | None = None) -> list[str]:
    lines = [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(paragraph, WIDTH - len(indent), break_on_hyphens=False)
    ]
    start = indent if first is None else first
    return [(indent if place else start) + line for place, line in enumerate(lines)] or [start]


def _top(record: RunRecord) -> Iterator[str]:
    told = verdict(record)
    yield from _wrap(told.headline.upper())
    yield from _wrap(told.lead)
    yield from _wrap(told.state)
    ended = moment(record.finished_at) if record.finished_at else "not ended"
    yield from _wrap(f"{moment(record.started_at)} to {ended}, run {record.run_id}")
    for step in record.steps:
        yield from _trouble(step)


def _trouble(step: StepRecord) -> Iterator[str]:
    if step.error:
        yield ""
        yield from _wrap(f"{step.title}: {step.error.get('message') or step.summary}", "  ", "! ")
    for warning in step.warnings:
        yield from _wrap(f"{step.title}: {warning}", "  ", "? ")


def _next(record: RunRecord) -> Iterator[str]:
    yield from _heading("What to do next")
    for number, action in enumerate(verdict(record).next, start=1):
        yield from _wrap(action.text, "   ", f"{number}. ")
        if action.command:
            yield f"     {action.command}"


def _timeline(line: Timeline) -> Iterator[str]:
    yield from _heading("Timeline")
    yield f"{'':46}{'planned':>11}{'actual':>11}"
    for bar in line.bars:
        yield _bar(bar)
        if bar.no_return:
            at = f"passed at {clock(line.no_return_at)} UTC" if line.no_return_at else "not reached"
            yield f"  {f' point of no return: {at} ':-^66}"
    everything = total(bar.planned_seconds for bar in line.bars)
    yield f"  {'all':44}{seconds(everything):>11}{seconds(line.working_seconds):>11}"
    if everything is None and line.planned_seconds is not None:
        compared = f"{seconds(line.compared_seconds)}, planned {seconds(line.planned_seconds)}"
        yield f"  Of these, the steps that were rehearsed took {compared}."


def _bar(bar: Bar) -> str:
    title = textwrap.shorten(bar.step.title, 43, placeholder="…")
    word = _STATUS.get(bar.step.status, bar.step.status)
    return f"  {title:44}{seconds(bar.planned_seconds):>11}{seconds(bar.seconds):>11}  {word}"


def _guide(record: RunRecord) -> Iterator[str]:
    rows = guide_rows(record)
    if not rows:
        return
    yield from _heading("Against the guide's timetable")
    yield f"  {'':24}{'guide':>12}{'rehearsed':>14}{'actual':>14}"
    for row in rows:
        yield f"  {row.name:24}{row.guide:>12}{seconds(row.rehearsed):>14}{seconds(row.actual):>14}"
    known = total(row.rehearsed for row in rows), total(row.actual for row in rows)
    yield f"  {'TOTAL':24}{GUIDE_TOTAL:>12}{seconds(known[0]):>14}{seconds(known[1]):>14}"


def _failing(record: RunRecord) -> Iterator[str]:
    """Only what did not pass: the rest is in the other formats."""
    lines = [line for step in record.steps for line in _not_passed(step)]
    if lines:
        yield from _heading("What did not pass")
        yield from lines


def _not_passed(step: StepRecord) -> Iterator[str]:
    evidence = evidence_of(step)
    for check in items(evidence.get("checks")):
        if check.get("status") != "pass":
            yield from _check(check)
    for table in items(evidence.get("fingerprints")):
        if table.get("equal") is not True:
            yield from _differs(table)
    for probe in items(evidence.get("probes")):
        if probe.get("status") != "pass":
            text = f"{probe.get('name')}: expected {probe.get('expected')}, got {probe.get('got')}"
            yield from _wrap(text, "    ", "  - ")
    for call in items(evidence.get("calls")):
        if not call.get("ok"):
            answer = f"{call.get('status') or 'no answer'} {call.get('detail') or ''}"
            yield from _wrap(f"{call.get('url')}: {answer}", "    ", "  - ")
    logs = evidence.get("logs")
    findings = items(logs.get("findings")) if isinstance(logs, Mapping) else []
    texts = [f"{one.get('file')}:{one.get('line')}: {one.get('text')}" for one in findings]
    yield from _limited(texts, "  - ")


def _check(check: Mapping[str, Any]) -> Iterator[str]:
    what = check.get("error") or count(check.get("result"))
    yield from _wrap(f"{check.get('title') or check.get('id')}: {what}", "    ", "  - ")
    yield f"    [{check.get('id')}, {check.get('status')}]"
    yield from _limited([cell(row) for row in items(check.get("rows"))], "      ")
    if check.get("fix"):
        yield from _wrap(f"fix: {check['fix']}", "      ", "    ")


def _differs(table: Mapping[str, Any]) -> Iterator[str]:
    rows = f"{count(table.get('rows_before'))} rows before, {count(table.get('rows_after'))} after"
    yield from _wrap(f"{table.get('table')} differs: {rows}", "    ", "  - ")


def _limited(texts: Sequence[str], first: str) -> Iterator[str]:
    for text in texts[:MAX_ROWS]:
        yield _cut(first + text)
    if len(texts) > MAX_ROWS:
        yield f"{' ' * len(first)}and {plural(len(texts) - MAX_ROWS, 'more', 'more')}"


def _cut(line: str) -> str:
    flat = line.replace("\n", " ").replace("\t", " ")
    return flat if len(flat) <= WIDTH else flat[: WIDTH - 1] + "…"


def _proof(record: RunRecord) -> Iterator[str]:
    step = record.step("verify")
    tables = items(evidence_of(step).get("fingerprints")) if step else []
    if tables:
        yield from _heading("Rows, before and after")
        for table in tables:
            word = "equal" if table.get("equal") is True else "DIFFERS"
            name = str(table.get("table"))[:40]
            before, after = count(table.get("rows_before")), count(table.get("rows_after"))
            yield f"  {name:40}{before:>14}{after:>14}  {word}"


def _ticks(title: str, lines: Sequence[Tick]) -> Iterator[str]:
    if not lines:
        return
    done = sum(tick.ticked is True for tick in lines)
    yield from _heading(f"{title}: {done} of {len(lines)}")
    for tick in lines:
        yield from _wrap(tick.text, "      ", f"  {_MARK[tick.ticked]} ")
        if tick.ticked is not True:
            yield from _wrap(tick.because, "      ")


def _environment(record: RunRecord) -> Iterator[str]:
    yield from _heading("Environment")
    backup = record.step("backup")
    figures = evidence_of(backup) if backup else {}
    archived = record.step("record")
    where = (evidence_of(archived).get("archive") if archived else None) or figures.get("file")
    lines = [
        ("database", f"{record.database} on {record.host}, PostgreSQL {record.server_version}"),
        ("run", f"{record.run_id}, {record.mode}, by {record.operator}, Mandate {record.mandate_version}"),
        ("backup", f"{where}, {size(figures.get('bytes'))}" if where else "none recorded"),
        ("sha256", str(figures.get("sha256") or "none recorded")),
        ("directory", record.directory),
    ]
    for name, text in lines:
        yield from _wrap(text, " " * 13, f"  {name:11}")
