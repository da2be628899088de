"""What a run comes to, in words: one headline, what happened, what to do next. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mandate.runbook.checklist import criteria, evidence_of, items, rolled_back
from mandate.runbook.guarded import old_version
from mandate.runbook.modes import by_engine
from mandate.runbook.record import REHEARSAL, RunRecord, StepRecord
from mandate.runbook.report.words import plural, seconds

Tone = Literal["good", "warn", "bad", "running"]

# Before the migrating step nothing of the migrated schema has been touched.
_BEFORE_MIGRATE = frozenset({"preflight", "stop", "backup", "rehearse", "check"})


@dataclass(frozen=True)
class Action:
    """Something to do next; `command` is what to type, when there is one."""

    text: str
    command: str | None = None


@dataclass(frozen=True)
class Verdict:
    """`state` says in one phrase which schema the database has now."""

    tone: Tone
    headline: str
    lead: str
    state: str
    next: tuple[Action, ...]


def verdict(record: RunRecord) -> Verdict:
    """The verdict on a run as it stands."""
    name = f"Migration {record.migration}"
    if record.rehearsal and record.status == "complete":
        return _rehearsed(record, name)
    if rolled_back(record):
        return _rolled_back(record, name)
    rollback = record.step("rollback")
    if rollback is not None and rollback.status == "failed":
        return _failed(record, name, rollback)
    judge = {
        "complete": _complete,
        "running": _running,
        "waiting": _waiting,
        "interrupted": _interrupted,
    }.get(record.status, _failed)
    return judge(record, name)


def failed_step(record: RunRecord) -> StepRecord | None:
    """The step of the guide that failed, if one did."""
    failed = (step for step in record.steps if step.status == "failed" and step.name != "rollback")
    return next(failed, None)


def proven(record: RunRecord) -> tuple[int, int]:
    """Rows and tables whose fingerprints are equal before and after; (0, 0) when one is not."""
    step = record.step("verify")
    tables = items(evidence_of(step).get("fingerprints")) if step else []
    if not all(table.get("equal") is True for table in tables):
        return 0, 0
    return sum(_int(table.get("rows_after")) for table in tables), len(tables)


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _complete(record: RunRecord, name: str) -> Verdict:
    open_lines = [tick for tick in criteria(record) if not tick.ticked]
    rows, tables = proven(record)
    proof = (
        f"{plural(rows, 'row')} in {plural(tables, 'table')} proven equal before and after."
        if rows
        else "No fingerprints were recorded, so row contents are not proven."
    )
    keep = Action(
        "Keep the backup and this run directory; check its signature wherever it is kept.",
        f"mandate report --verify {shlex.quote(record.directory)}",
    )
    ends = _ends(record)
    watch = Action("Watch the application logs for errors about domains; test calls filtered by domain.")
    if not open_lines:
        return Verdict("good", f"{name} is complete", proof, _state(record), (watch, *ends, keep))
    count = plural(len(open_lines), "success criterion", "success criteria")
    look = Action(f"Look at what is open: {'; '.join(tick.text for tick in open_lines)}.")
    headline = f"{name} is complete, {count} not met or not looked at"
    return Verdict("warn", headline, proof, _state(record), (look, watch, *ends, keep))


def _rehearsed(record: RunRecord, name: str) -> Verdict:
    step = record.step("rehearse")
    lead = _sentence(step.summary) if step is not None and step.summary else "Nothing was recorded of it."
    number = record.migration.removesuffix(REHEARSAL)
    actions = (
        Action("See what the migration takes, with these times.", f"mandate plan {number}"),
        Action("Then migrate the database itself.", f"mandate run {number}"),
    )
    return Verdict("good", f"{name} is complete", lead, _state(record), actions)


def _ends(record: RunRecord) -> tuple[Action, ...]:
    """How a reverse window ends."""
    if not by_engine(record.mode) or record.step("finalize") is not None:
        return ()
    return (
        Action("Should it turn out wrong, go back; nothing is lost.", f"mandate rollback {record.migration}"),
        Action("When you are sure, drop the old tables.", f"mandate finalize {record.migration}"),
    )


def _running(record: RunRecord, name: str) -> Verdict:
    done = sum(step.status in ("passed", "skipped") for step in record.steps)
    current = next((step for step in record.steps if step.status == "running"), None)
    doing = f"Now: {current.title}." if current else "Between two steps."
    lead = f"{done} of {len(record.steps)} steps are done. {doing}"
    return Verdict(
        "running",
        f"{name} is running",
        lead,
        _state(record),
        (Action("Watch it.", "mandate watch"), Action("Make this report again when it has ended.")),
    )


def _waiting(record: RunRecord, name: str) -> Verdict:
    current = next((step for step in record.steps if step.status not in ("passed", "skipped")), None)
    before = f" before “{current.title}”" if current else ""
    return Verdict(
        "warn",
        f"{name} awaits approval",
        f"The run stopped at a go/no-go point{before}.",
        _state(record),
        (Action("Read this report, then continue the run.", record.command),),
    )


def _interrupted(record: RunRecord, name: str) -> Verdict:
    current = next((step for step in record.steps if step.status in ("interrupted", "running")), None)
    where = f" during “{current.title}”" if current else ""
    return Verdict(
        "warn",
        f"{name} was interrupted{where}",
        "The conductor ended before the run did.",
        _state(record),
        (
            Action("See where it stands.", "mandate status"),
            Action("Continue; steps that are done are not repeated.", record.command),
        ),
    )


def _rolled_back(record: RunRecord, name: str) -> Verdict:
    step = record.step("rollback")
    took = f" in {seconds(step.seconds)}" if step and step.seconds is not None else ""
    failed = failed_step(record)
    why = f" after “{failed.title}” failed" if failed else ""
    back = f"The database is back {_back_as(record, step)}{took}{why}."
    return Verdict(
        "warn",
        f"{name} was rolled back",
        f"{back} A run that was rolled back is a failed run.",
        _state(record),
        (
            Action("Find out why before trying again.", f"mandate diagnose {record.migration}"),
            *_after_rollback(step),
        ),
    )


def _back_as(record: RunRecord, step: StepRecord | None) -> str:
    if step is None or step.evidence.get("method") != "engine":
        return "as it was"
    return f"at {old_version(record.migration)}, with everything that was written since,"


def _after_rollback(step: StepRecord | None) -> tuple[Action, ...]:
    evidence = evidence_of(step) if step else {}
    actions = []
    written = evidence.get("written_since")
    rows = sum(map(_int, written.values())) if isinstance(written, dict) else 0
    if rows:
        text = f"{plural(rows, 'row')} written since the backup are not in the database: see the export"
        actions.append(Action(f"{text} in {evidence.get('export')}."))
    if kept := evidence.get("database_kept"):
        actions.append(Action(f"The migrated database is kept as {kept}; drop it when it is not needed."))
    return tuple(actions)


def _failed(record: RunRecord, name: str, step: StepRecord | None = None) -> Verdict:
    step = step or failed_step(record)
    if step is None:
        status = Action("See where it stands.", "mandate status")
        return Verdict("bad", f"{name} failed", "No step says why.", _state(record), (status,))
    error = step.error or {}
    message = str(error.get("message") or step.summary or "no reason was recorded").rstrip(".")
    hint = str(error.get("hint") or "")
    advice = _advice(record, step, error.get("code"))
    actions = [action for action in advice if not action.command or f"`{action.command}`" not in hint]
    return Verdict(
        "bad",
        f"{name} stopped: {_lower(step.title)} failed",
        _sentence(message),
        _state(record),
        (*([Action(_sentence(hint))] if hint else []), *actions),
    )


def _sentence(text: str) -> str:
    """A message as a sentence; names of programs and objects keep their case."""
    word = text.split(" ", 1)[0].rstrip(":;,")
    start = text[:1].upper() if word.isalpha() and word != "psql" else text[:1]
    whole = start + text[1:]
    return whole if whole.endswith((".", "!", "?")) else f"{whole}."


def _lower(title: str) -> str:
    """A title inside a sentence; names such as API keep their capitals."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def _advice(record: RunRecord, step: StepRecord, code: Any) -> tuple[Action, ...]:
    number = record.migration.removesuffix(REHEARSAL)
    again = Action("Then run it again; it continues where it stopped.", record.command)
    diagnose = Action("Show each problem with its fix.", f"mandate diagnose {number}")
    back = _way_back(record)
    if code == "may-have-committed":
        return (Action("Find out whether it committed, before anything else.", "mandate status"), again)
    if step.name in ("check", "preflight"):
        return (diagnose, again)
    if step.name in _BEFORE_MIGRATE or step.name == "migrate":
        return (again,)
    return (diagnose, back)


def _way_back(record: RunRecord) -> Action:
    old = old_version(record.migration)
    if by_engine(record.mode):
        text = f"If it cannot be put right, bring {old} back, with everything that was written since."
        return Action(text, f"mandate rollback {record.migration}")
    return Action(
        f"If it cannot be put right, bring {old} back. What was written since is exported first.",
        f"mandate rollback {record.migration} --from-backup",
    )


def _state(record: RunRecord) -> str:
    """Which schema the database has, and whether the services are away, as far as the record shows."""
    away = "" if record.status == "complete" else " The services are still stopped."
    return _schema_state(record) + (away if _services_stopped(record) else "")


def _services_stopped(record: RunRecord) -> bool:
    stop, restart = record.step("stop"), record.step("restart")
    services = evidence_of(stop).get("services") if stop else None
    if not isinstance(services, Mapping) or not services.get("stopped"):
        return False
    return not rolled_back(record) and (restart is None or restart.status == "pending")


def _schema_state(record: RunRecord) -> str:
    migrate = record.step("migrate")
    if rolled_back(record):
        step = record.step("rollback")
        lossless = step is not None and step.evidence.get("method") == "engine"
        also = ", and holds everything that was written since" if lossless else ""
        return f"The database is as it was before the migration{also}."
    final = record.step("finalize")
    if final is not None and final.status == "passed":
        return f"The database is migrated, finally: {old_version(record.migration)}'s tables were dropped."
    if record.rehearsal:
        return "Nothing was changed: it was rehearsed on a copy."
    if migrate is None or migrate.status == "pending":
        return "Nothing was changed: the migrating step has not run."
    if (migrate.error or {}).get("code") == "may-have-committed":
        return "Not known: the connection was lost while committing."
    return {
        "passed": "The database is migrated." + _back(record) + _window(record),
        "failed": _unchanged(record),
        "skipped": "The migrating step was skipped.",
    }.get(migrate.status, "The migrating step has not reported its end: wholly old or wholly new.")


def _window(record: RunRecord) -> str:
    if not by_engine(record.mode):
        return ""
    kept = f"{old_version(record.migration)}'s tables are kept, to go back to without loss"
    return f" {_sentence(kept)}"


def _unchanged(record: RunRecord) -> str:
    migrate = record.step("migrate")
    if by_engine(record.mode):
        old = old_version(record.migration)
        if migrate is not None and (migrate.error or {}).get("code") == "aborted":
            return _sentence(f"{old} is in use, unchanged; nothing of the migration is left")
        return _sentence(f"{old} is in use, unchanged; what was built beside it waits for the next attempt")
    return "The database is unchanged: the migration is one transaction and was undone."


def _back(record: RunRecord) -> str:
    restart = record.step("restart")
    if restart is not None and restart.status == "passed":
        return " The services are back."
    if restart is not None and restart.status in ("failed", "running", "interrupted"):
        return " The services may be writing to it."
    return ""
