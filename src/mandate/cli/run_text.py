"""What a run says to a person, at 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mandate.cli.output import seconds, size
from mandate.errors import MandateError
from mandate.runbook import guarded, modes
from mandate.runbook.migration import Migration
from mandate.runbook.record import RunRecord, StepRecord, Tick
from mandate.runbook.report.verdict import verdict
from mandate.runbook.window import Window
from mandate.settings import Settings

WIDTH = 80
_MARKS = {
    "passed": "ok  ",
    "failed": "FAIL",
    "skipped": "skip",
    "interrupted": "stop",
    "pending": "    ",
    "running": "... ",
}


def opening(record: RunRecord, verb: str, because: str, settings: Settings) -> Iterator[str]:
    """The head of a run."""
    yield f"{verb} migration {record.migration} ({record.title}), run {record.run_id}"
    if because:
        yield from wrapped(because, "  because ")
    yield f"  database   {record.database}, PostgreSQL {record.server_version}"
    yield f"  migrates   {modes.words(record.mode)}"
    yield f"  services   {settings.services.kind}"
    yield f"  files      {short_path(record.directory)}"
    if settings.services.kind == "none" and record.mode != modes.ONLINE and verb != "Finalizing":
        yield "  note       no services are configured: stop and start them yourself"


def mark(step: StepRecord) -> str:
    """Four columns that say how a step stands."""
    return _MARKS[step.status]


def step_begins(step: StepRecord) -> str:
    """One line when a step begins."""
    planned = f"  (rehearsed {seconds(step.planned_seconds)})" if step.planned_seconds else ""
    clock = f"{datetime.now().astimezone():%H:%M:%S}"
    return f"{clock} .... {step.name:<9} {step.title}{planned}"


def step_ends(step: StepRecord) -> Iterator[str]:
    """What a step came to."""
    clock = f"{datetime.now().astimezone():%H:%M:%S}"
    took = seconds(step.seconds) if step.seconds is not None else ""
    yield from wrapped(step.summary, f"{clock} {_MARKS[step.status]} {step.name:<9} {took:>7}  ")
    for warning in step.warnings:
        yield from wrapped(warning, " " * 14 + "warning: ")


def wrapped(text: str, prefix: str = "") -> Iterator[str]:
    """Lines of at most 80 columns, indented under the prefix; a long word is never cut."""
    indent = " " * len(prefix)
    lines = [
        part
        for line in text.splitlines() or [""]
        for part in textwrap.wrap(line, WIDTH - len(prefix), break_long_words=False, break_on_hyphens=False)
        or [""]
    ]
    yield prefix + lines[0]
    for line in lines[1:]:
        yield indent + line


def ending(
    record: RunRecord, error: MandateError | None, files: Mapping[str, Path], notified: Sequence[str]
) -> str:
    """The last page of a run: how it went, what is true now, what to do next."""
    lines = ["", headline(record), ""]
    lines += list(_steps(record))
    if error is not None:
        lines += ["", *wrapped(error.message, "why   ")]
        if error.hint:
            lines += wrapped(error.hint, "next  ")
        lines += wrapped(verdict(record).state, "state ")
    if _migrated(record):
        lines += ["", *_ticks("Checklist", record.checklist)]
    if record.status in ("complete", "rolled-back"):
        lines += _way_back(record)
    lines.append("")
    lines += [f"{name:<9} {short_path(str(path))}" for name, path in files.items()]
    lines += list(notified)
    return "\n".join(lines)


def _way_back(record: RunRecord) -> Iterator[str]:
    """What a run by the engine leaves open, or what its end means."""
    if record.rehearsal:
        yield from ("", f"Nothing was changed. Next: {record.command.replace('rehearse', 'run')}")
    if record.rehearsal or not modes.by_engine(record.mode):
        return
    name, old = record.migration, guarded.old_version(record.migration)
    final, back = record.step("finalize"), record.step("rollback")
    if record.status == "rolled-back":
        if back is not None and back.status == "passed" and back.evidence.get("method") == "engine":
            yield ""
            yield f"{_capital(old)} is in use, with everything written since. Next:"
            yield f"  mandate diagnose {name}   why it was not to stay"
            yield f"  mandate run {name}        forward again, with a new backup"
    elif final is None:
        yield ""
        yield f"{_capital(old)}'s tables are kept beside, to go back to. Next, once you are sure:"
        yield f"  mandate rollback {name}   back, with everything written since"
        yield f"  mandate finalize {name}   drop them; their disk is given back"
    elif final.status == "passed":
        yield ""
        freed = final.evidence.get("bytes_freed")
        disk = "their disk is given back" if freed is None else f"{size(freed)} of disk are given back"
        yield f"{_capital(old)}'s tables are gone; {disk}."
        yield "Next: keep the backup. From here on going back means restoring it:"
        yield f"  mandate rollback {name} --from-backup   what was written since is exported"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def window(found: Window, migration: Migration) -> Iterator[str]:
    """An open reverse window."""
    since = f" since {found.since.astimezone():%Y-%m-%d %H:%M}" if found.since else ""
    yield from wrapped(
        f"version {migration.before}'s tables are kept{since} ({size(found.bytes)}); {found.behind:,} changes"
        " since then are not in them yet and will be taken over before going back",
        "window: ",
    )
    name = migration.name
    ends = f"`mandate rollback {name}` goes back without loss, `mandate finalize {name}` drops them"
    yield from wrapped(ends, "        ")


def _migrated(record: RunRecord) -> bool:
    step = record.step("migrate")
    return step is not None and step.status == "passed"


def headline(record: RunRecord) -> str:
    """One line that says it all."""
    took = ""
    if record.finished_at:
        took = f" after {seconds((record.finished_at - record.started_at).total_seconds())}"
    words = {
        "complete": "COMPLETE",
        "failed": "FAILED",
        "interrupted": "INTERRUPTED",
        "rolled-back": "ROLLED BACK",
        "waiting": "WAITING",
        "running": "RUNNING",
    }
    return f"Migration {record.migration} {words[record.status]}{took} (run {record.run_id})"


def subject(record: RunRecord) -> str:
    """Title of a notification."""
    words = {"complete": "complete", "failed": "FAILED", "rolled-back": "rolled back"}
    return f"Migration {record.migration} {words.get(record.status, record.status)} on {record.database}"


def body(record: RunRecord) -> str:
    """Text of a notification."""
    return "\n".join([headline(record), *_steps(record), verdict(record).state])


def _steps(record: RunRecord) -> Iterator[str]:
    yield f"{'':4} {'step':<9} {'guide':<5} {'planned':>8} {'actual':>8}"
    for step in record.steps:
        planned = seconds(step.planned_seconds) if step.planned_seconds else "-"
        actual = seconds(step.seconds) if step.seconds is not None else "-"
        yield f"{_MARKS[step.status]} {step.name:<9} {step.guide:<5} {planned:>8} {actual:>8}"
        if step.name == record.point_of_no_return and not modes.by_engine(record.mode):
            yield f"{'':5}{'- - point of no return: new rows are written from here on - -'}"


def _ticks(title: str, ticks: Sequence[Tick]) -> Iterator[str]:
    yield title
    for tick in ticks:
        mark = {True: "[x]", False: "[!]", None: "[ ]"}[tick.ticked]
        yield from wrapped(f"{tick.text}", f"  {mark} ")


def short_path(path: str) -> str:
    """Relative to here when it is below here."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def visible(value: object) -> str:
    """A value of somebody's data; what a terminal would act upon is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def run_rows(rows: Sequence[Mapping[str, Any]], limit: int = 10) -> Iterator[str]:
    """Offending rows as `column=value` lines."""
    for row in rows[:limit]:
        yield from wrapped(", ".join(f"{key}={visible(value)}" for key, value in row.items()), "      ")
    if len(rows) > limit:
        yield f"      and more: the first {len(rows)} are in --format json"
