"""The report as one HTML page that needs nothing else: no script, no font, no image from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup, escape

from mandate.runbook import guarded, modes
from mandate.runbook.checklist import checklist, criteria, evidence_of, items, judges
from mandate.runbook.evidence import FileDigest
from mandate.runbook.record import RunRecord, StepRecord
from mandate.runbook.report import words
from mandate.runbook.report.timeline import GUIDE_TOTAL, Span, downtime_seconds, guide_rows, timeline, total
from mandate.runbook.report.verdict import proven, verdict

MAX_ROWS = 20  # offending rows shown per check
MAX_LINES = 200  # findings, statements, files


def render(record: RunRecord, files: Sequence[FileDigest] = (), now: datetime | None = None) -> str:
    """The page. `files` is the run directory's manifest, of which reports are left out (a page cannot hold
    its own digest); `now` is for a run that has not ended.

    The same arguments give the same page, byte for byte.
    """
    shown = words.cleaned(record)
    evidence = {step.name: evidence_of(step) for step in shown.steps}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=shown,
            verdict=verdict(shown),
            facts=_facts(shown),
            timeline=timeline(shown, now),
            guide_rows=guide_rows(shown),
            guide_total=GUIDE_TOTAL,
            checklist=checklist(shown),
            criteria=criteria(shown),
            steps={step.name: step for step in shown.steps},
            evidence=evidence,
            troubled=[step for step in shown.steps if step.error or step.warnings],
            files=[file for file in files if not file.name.startswith("report.")],
            moment_now=now,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        seconds=words.seconds,
        number=words.count,
        size=words.size,
        moment=words.moment,
        clock=words.clock,
        cell=words.cell,
        visible=words.visible,
        way=modes.words,
        pre_checks=pre_checks,
        verification=verification,
        kept_beside=modes.by_engine,
        sections=sections,
        first=first,
        columns=columns,
        items_of=items,
        is_short=is_short,
        strongest=strongest,
        judges=judges,
        digest=digest,
        left=left,
        width=width,
        total=total,
        with_code=with_code,
        not_passed=not_passed,
    )
    environment.globals.update(max_rows=MAX_ROWS, max_lines=MAX_LINES, plural=words.plural)
    return environment


def pre_checks(migration: str) -> str:
    """The file of a migration's pre-checks."""
    known = guarded.known(migration)
    return known.pre_checks_name if known else "its pre-checks"


def verification(migration: str) -> str:
    """The file that verifies a migration."""
    known = guarded.known(migration)
    return known.verification_name if known else "its verification"


def with_code(text: str) -> Markup:
    """The text with `commands` set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return Markup(escape(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


@dataclass(frozen=True)
class Open:
    """Something of a step that did not pass: a check, a table, a probe or a call."""

    status: str
    title: str
    what: str


def not_passed(step: StepRecord) -> list[Open]:
    """What a step looked at and did not find as it should be."""
    evidence = evidence_of(step)
    found = [
        Open(str(check.get("status")), str(check.get("title") or check.get("id")), _outcome(check))
        for check in items(evidence.get("checks"))
        if check.get("status") != "pass"
    ]
    found += [
        Open("differs", str(table.get("table")), f"{words.count(table.get('rows_after'))} rows")
        for table in items(evidence.get("fingerprints"))
        if table.get("equal") is not True
    ]
    found += [
        Open(str(probe.get("status")), str(probe.get("name")), str(probe.get("got")))
        for probe in items(evidence.get("probes"))
        if probe.get("status") != "pass"
    ]
    calls = [call for call in items(evidence.get("calls")) if not call.get("ok")]
    return found + [Open("failed", str(call.get("url")), _answer(call)) for call in calls]


def _outcome(check: Mapping[str, Any]) -> str:
    return str(check.get("error") or words.count(check.get("result")))


def _answer(call: Mapping[str, Any]) -> str:
    return f"{call.get('status') or 'no answer'} {call.get('detail') or ''}".strip()


# The table locks of PostgreSQL, weakest first.
LOCKS = (
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
    "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
)  # fmt: skip


def strongest(locks: object) -> list[Mapping[str, Any]]:
    """Of each table its strongest lock: the others are implied by it."""
    best: dict[str, Mapping[str, Any]] = {}
    for lock in items(locks):
        table = str(lock.get("table"))
        if table not in best or _strength(lock) > _strength(best[table]):
            best[table] = lock
    return list(best.values())


def _strength(lock: Mapping[str, Any]) -> int:
    return LOCKS.index(mode) if (mode := lock.get("mode")) in LOCKS else -1


def digest(text: object, length: int = 20) -> str:
    """The beginning of a fingerprint; the whole of it is in the cell's title."""
    whole = words.count(text) if text is None else str(text)
    return whole if len(whole) <= length + 1 else f"{whole[:length]}…"


def is_short(result: object) -> bool:
    """Whether a result fits a column of figures."""
    return len(words.count(result)) <= 20


def sections(checks: object) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Checks by section, in their order."""
    grouped = groupby(items(checks), key=lambda check: str(check.get("section") or ""))
    return [(section, list(members)) for section, members in grouped]


def first(rows: object, limit: int = MAX_ROWS) -> list[Mapping[str, Any]]:
    """At most `limit` rows of evidence."""
    return items(rows)[:limit]


def columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every column that any of the rows has, in order of appearance."""
    return list(dict.fromkeys(str(key) for row in rows for key in row))


AXIS = 1000.0  # length of the time axis in units of the bars' SVG
LEAST = 4.0  # what a bar is at least wide, so that a short step can be seen


def left(span: Span) -> str:
    """Where a bar begins on the axis."""
    return f"{min(span.start * AXIS, AXIS - LEAST):.1f}"


def width(span: Span) -> str:
    """How wide a bar is on the axis."""
    return f"{max(span.length * AXIS, LEAST):.1f}"


def _facts(record: RunRecord) -> list[tuple[str, str, str]]:
    """The few figures worth a glance: label, figure, note. Only those that there are."""
    return [fact for fact in (_rows(record), _checks(record), _away(record), _backup(record)) if fact]


def _rows(record: RunRecord) -> tuple[str, str, str] | None:
    rows, tables = proven(record)
    if not rows:
        return None
    return "Rows proven equal", words.count(rows), f"in {words.plural(tables, 'table')}, by fingerprint"


def _checks(record: RunRecord) -> tuple[str, str, str] | None:
    steps = [step for name in ("check", "verify") if (step := record.step(name))]
    checks = [check for step in steps for check in items(evidence_of(step).get("checks"))]
    judging = [check for check in checks if judges(check)]
    if not judging:
        return None
    passed = sum(check.get("status") == "pass" for check in judging)
    both = all(items(evidence_of(step).get("checks")) for step in steps)
    note = "before and after the migration" if both else "none after the migration yet"
    return "Checks passed", f"{passed} of {len(judging)}", note


def _away(record: RunRecord) -> tuple[str, str, str] | None:
    away = downtime_seconds(record)
    if away is None:
        return None
    migrate = record.step("migrate")
    took = f"of which the migration {words.seconds(migrate.seconds)}" if migrate else ""
    return "Services away", words.seconds(away), took


def _backup(record: RunRecord) -> tuple[str, str, str] | None:
    step: StepRecord | None = record.step("backup")
    evidence = evidence_of(step) if step else {}
    if not evidence.get("bytes"):
        return None
    restore = evidence.get("restore_seconds")
    note = f"restored and compared in {words.seconds(restore)}" if restore else "not restored"
    return "Backup", words.size(evidence["bytes"]), note
