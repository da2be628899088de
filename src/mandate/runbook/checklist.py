"""The guide's verification checklist and success criteria, each line derived from the steps' evidence.

What the checklist has between its first and its last lines is the migration's own.

Pure. A line is True or False only because of figures that a step recorded; None means that nothing has
looked at it. A rollback undoes every line that speaks of the migrated state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import PurePath
from typing import Any, TypeGuard

from mandate.runbook import guarded
from mandate.runbook.record import RunRecord, StepRecord, Tick

Finding = tuple[bool | None, str]
Judge = Callable[[StepRecord], Finding]
Line = Callable[[RunRecord], Finding]

# The files' own summaries. They inform, and they must not contradict the checks above them.
SUMMARIES = frozenset({"readiness", "verification"})
_BAD_SUMMARY = ("FAIL", "NOT READY")

_LASTING = frozenset({"check", "backup", "record"})  # steps whose evidence outlives a rollback


def checklist(record: RunRecord) -> tuple[Tick, ...]:
    """The lines of "Verification Checklist (Post-Execution)"; of 008 in the guide's words and order.

    None for a rehearsal, which is not about the database.
    """
    if record.rehearsal:
        return ()
    lines = (*_FIRST, *_own(record.migration), *_LAST)
    return tuple(Tick(text, *line(record)) for text, line in lines)


def criteria(record: RunRecord) -> tuple[Tick, ...]:
    """The 8 lines of "Success Criteria", in the guide's words and order; none for a rehearsal."""
    if record.rehearsal:
        return ()
    return tuple(Tick(text, *line(record)) for text, line in _CRITERIA)


def ticked(record: RunRecord) -> RunRecord:
    """The record with both lists derived afresh."""
    return replace(record, checklist=checklist(record), criteria=criteria(record))


def rolled_back(record: RunRecord) -> bool:
    """Whether a rollback has undone the migration."""
    step = record.step("rollback")
    return record.status == "rolled-back" or (step is not None and step.status == "passed")


def evidence_of(step: StepRecord) -> Mapping[str, Any]:
    """What a step recorded; a step that raised carries its figures in the error's fields."""
    fields = (step.error or {}).get("fields")
    return {**(fields if isinstance(fields, Mapping) else {}), **step.evidence}


def items(value: object) -> list[Mapping[str, Any]]:
    """The mappings of a list in evidence; anything else counts as no evidence."""
    return [item for item in value if isinstance(item, Mapping)] if _is_list(value) else []


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _by(name: str) -> Callable[[Judge], Line]:
    """Judge one step, once it has finished and unless what it showed was undone afterwards."""

    def decorate(judge: Judge) -> Line:
        @wraps(judge)
        def line(record: RunRecord) -> Finding:
            step = record.step(name)
            if step is None or step.status == "pending":
                return None, f"step {name} has not run"
            if step.status in ("running", "interrupted"):
                return None, f"step {name} has not finished"
            if step.status == "skipped":
                return None, f"step {name} was skipped: {step.summary}".rstrip(": ")
            if rolled_back(record) and name not in _LASTING:
                return False, "undone by the rollback"
            return _or_failure(step, judge(step))

        return line

    return decorate


def _or_failure(step: StepRecord, finding: Finding) -> Finding:
    if finding[0] is None and step.status == "failed":
        return None, f"step {step.name} failed before this was looked at"
    return finding


def _checks(step: StepRecord) -> Finding:
    checks = items(evidence_of(step).get("checks"))
    if not checks:
        return None, "no check left a result"
    bad = [str(check.get("id")) for check in checks if check.get("status") != "pass"]
    if bad:
        return False, f"{len(bad)} of {len(checks)} did not pass: {_some(bad)}"
    for check in checks:
        if check.get("id") in SUMMARIES and str(check.get("result")).startswith(_BAD_SUMMARY):
            return False, f"the file's own summary says {check.get('result')}"
    if step.status != "passed":
        return False, f"the checks passed, the step did not: {_message(step)}"
    judging = [check for check in checks if judges(check)]
    if not judging:
        return None, "the checks only inform"
    informing = len(checks) - len(judging)
    also = f", {informing} only inform" if informing else ""
    return True, f"{len(judging)} of {len(judging)} passed{also}"


def judges(check: Mapping[str, Any]) -> bool:
    """Whether a check can fail at all; the others only inform."""
    return check.get("expect") not in ("any", "rows")


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _message(step: StepRecord) -> str:
    return str((step.error or {}).get("message") or step.summary or step.status)


def _pre_checks(record: RunRecord) -> Finding:
    """Step 4; a preflight that failed before it counts as well."""
    preflight = record.step("preflight")
    found = _by("check")(_checks)(record)
    if found[0] is None and preflight is not None and preflight.status == "failed":
        return _checks(preflight)
    return found


@_by("migrate")
def _migrated(step: StepRecord) -> Finding:
    if step.status != "passed":
        return False, _message(step)
    if step.evidence.get("method") == "engine":
        return _swapped(step)
    statements = items(step.evidence.get("statements"))
    tags = [str(statement.get("tag")) for statement in statements]
    if "COMMIT" not in tags:
        return None, "no COMMIT in what the step recorded"
    return True, f"{len(statements)} statements, committed"


def _swapped(step: StepRecord) -> Finding:
    """The engine's own record: compared before its swap, and swapped."""
    done = [str(phase.get("name")) for phase in items(step.evidence.get("phases"))]
    tables = items(step.evidence.get("fingerprints"))
    if not {"verify", "cutover"} <= set(done):
        return None, "no verification and cutover in what the step recorded"
    if bad := [str(table.get("table")) for table in tables if table.get("equal") is not True]:
        return False, f"old and new differ: {_some(bad)}"
    return True, f"{len(done)} phases, {len(tables)} tables compared and swapped in one transaction"


@_by("verify")
def _post_checks(step: StepRecord) -> Finding:
    ticked, because = _checks(step)
    tables = items(evidence_of(step).get("fingerprints"))
    differing = [str(table.get("table")) for table in tables if table.get("equal") is not True]
    if differing:
        return False, f"fingerprints differ: {_some(differing)}"
    if ticked and tables:
        return True, f"{because}; {len(tables)} tables equal before and after"
    return ticked, because


def _verified(ids: Sequence[str]) -> Line:
    """A line that verification checks prove; a check may have several results, and all must pass."""

    @_by("verify")
    def line(step: StepRecord) -> Finding:
        found = [check for check in items(evidence_of(step).get("checks")) if check.get("id") in ids]
        bad = [check for check in found if check.get("status") != "pass"]
        if bad:
            return False, f"{bad[0].get('title') or bad[0].get('id')}: {_result(bad[0])}"
        if missing := [id for id in ids if id not in {check.get("id") for check in found}]:
            return None, f"no result of {_some(missing)}"
        return True, "; ".join(
            f"{check.get('title') or check.get('id')}: {_result(check)}" for check in found[:3]
        )

    return line


def _result(check: Mapping[str, Any]) -> str:
    return str(check.get("error") or check.get("result"))


def is_refusal(probe: Mapping[str, Any]) -> bool:
    """Whether a probe is one that the database must refuse, whatever it did."""
    expected = str(probe.get("expected")).lower()
    return expected.startswith("refus") or (bool(probe.get("sqlstate")) and not expected.startswith("accept"))


def passes(probe: Mapping[str, Any]) -> bool:
    """Whether a probe proved something: it passed, and a refusal names what refused it."""
    if probe.get("status") != "pass":
        return False
    named = probe.get("constraint") or probe.get("message")
    return bool(probe.get("sqlstate") and named) if is_refusal(probe) else True


def _about(probe: Mapping[str, Any], table: str) -> bool:
    return f"into {table}" in " ".join(str(probe.get("sql")).lower().replace("mandate.", "").split())


def _rule(table: str, word: str) -> Line:
    """A constraint holds when a bad row is refused by it and a good row is not refused at all."""

    @_by("probe")
    def line(step: StepRecord) -> Finding:
        probes = [probe for probe in items(evidence_of(step).get("probes")) if _about(probe, table)]
        bad = [str(probe.get("name")) for probe in probes if probe.get("status") != "pass"]
        if bad:
            return False, f"not as expected: {_some(bad)}"
        proven = [probe for probe in probes if passes(probe)]
        refused = [probe for probe in proven if is_refusal(probe) and word in _refuser(probe)]
        if not refused or all(is_refusal(probe) for probe in proven):
            return None, f"no pair of a good and a bad row of {table} was tried"
        return True, f"{refused[0].get('name')}: refused with {refused[0].get('sqlstate')}"

    return line


def _refuser(probe: Mapping[str, Any]) -> str:
    return f"{probe.get('constraint')} {probe.get('message')}"


@_by("probe")
def _samples(step: StepRecord) -> Finding:
    evidence = evidence_of(step)
    accepted = [probe for probe in items(evidence.get("probes")) if not is_refusal(probe)]
    bad = [str(probe.get("name")) for probe in accepted if not passes(probe)]
    left = evidence.get("rows_left")
    if bad:
        return False, f"not accepted: {_some(bad)}"
    if left:
        return False, f"{left} rows of the tests are still there"
    if not accepted or left is None:
        return None, "no sample insert left a result"
    return True, f"{len(accepted)} accepted and taken back, no row left"


@_by("probe")
def _constraint_tests(step: StepRecord) -> Finding:
    probes = items(evidence_of(step).get("probes"))
    bad = [str(probe.get("name")) for probe in probes if not passes(probe)]
    refusals = sum(is_refusal(probe) for probe in probes)
    if bad:
        return False, f"not as expected: {_some(bad)}"
    if not 0 < refusals < len(probes):
        return None, "a good row and a bad row are both needed"
    if step.status != "passed":
        return False, _message(step)
    return True, f"{len(probes) - refusals} accepted, {refusals} refused, each as expected"


@_by("restart")
def _restarted(step: StepRecord) -> Finding:
    if step.status != "passed":
        return False, _message(step)
    services = step.evidence.get("services")
    if isinstance(services, Mapping) and services.get("stayed"):
        names = ", ".join(map(str, services["stayed"]))
        return True, f"{names} stayed up throughout, and ready"
    started = services.get("started") if isinstance(services, Mapping) else None
    ready = step.evidence.get("ready_seconds")
    if not _is_list(started) or not started or ready is None:
        return None, "no service was started by this run"
    return True, f"{_some([str(name) for name in started])} ready after {float(ready):.1f} s"


@_by("smoke")
def _endpoints(step: StepRecord) -> Finding:
    calls = items(evidence_of(step).get("calls"))
    if not calls:
        return None, "no endpoint was called"
    bad = [f"{call.get('url')} ({call.get('status') or 'no answer'})" for call in calls if not call.get("ok")]
    if bad:
        return False, f"{len(bad)} of {len(calls)} failed: {_some(bad, 1)}"
    rows = evidence_of(step).get("rows_checked")
    if not rows:
        return None, "the domain filter answered no row, so it shows nothing"
    return True, f"{len(calls)} calls answered, {rows} filtered rows compared"


@_by("smoke")
def _logs(step: StepRecord) -> Finding:
    logs = evidence_of(step).get("logs")
    if not isinstance(logs, Mapping) or not _is_list(logs.get("files")) or not logs["files"]:
        return None, "no log file was scanned"
    findings = items(logs.get("findings"))
    count = logs.get("found") or len(findings)
    if count:
        first = findings[0] if findings else {}
        return False, f"{count} lines, first {first.get('file')}:{first.get('line')}"
    files = len(logs["files"])
    return (
        True,
        f"{logs.get('lines', 0)} lines in {files} file{'' if files == 1 else 's'} since the run began",
    )


def _archived(record: RunRecord) -> Finding:
    backup = record.step("backup")
    sha256 = evidence_of(backup).get("sha256") if backup else None

    @_by("record")
    def line(step: StepRecord) -> Finding:
        archive, link = step.evidence.get("archive"), step.evidence.get("link")
        if not archive or not link:
            return (False if step.status == "failed" else None), "no archive and link were recorded"
        if not sha256:
            return None, "no digest says which backup this is"
        name, linked = PurePath(str(archive)).name, PurePath(str(link)).name
        return True, f"{name}, sha256 {str(sha256)[:12]}…, linked as {linked}"

    return line(record)


@_by("record")
def _logged(step: StepRecord) -> Finding:
    if not step.evidence.get("execution_log"):
        return (False if step.status == "failed" else None), "no execution log was written"
    return True, str(step.evidence["execution_log"])


def _own(migration: str) -> list[tuple[str, Line]]:
    """What a migration's verification and probes show of it alone."""
    known = guarded.known(migration)
    if known is None:
        return []
    return [
        *((one.text, _verified(one.checks)) for one in known.proven),
        *((one.text, _rule(one.table, one.word)) for one in known.tried),
    ]


_FIRST: tuple[tuple[str, Line], ...] = (
    ("Pre-checks passed (all 0s/expected counts)", _pre_checks),
    ("Migration ran without errors", _migrated),
    ("Post-checks passed (all 0s/expected counts)", _post_checks),
)

_LAST: tuple[tuple[str, Line], ...] = (
    ("Services restarted successfully", _restarted),
    ("API endpoints responding", _endpoints),
    ("No application errors in logs", _logs),
    ("Sample inserts tested", _samples),
    ("Backup archived and labeled", _archived),
    ("Execution log documented", _logged),
)

_CRITERIA: tuple[tuple[str, Line], ...] = (
    ("All pre-checks PASS", _pre_checks),
    ("Migration runs without errors", _migrated),
    ("All post-checks PASS", _post_checks),
    ("Constraint tests succeed/fail as expected", _constraint_tests),
    ("Services restart cleanly", _restarted),
    ("APIs respond normally", _endpoints),
    ("No errors in application logs", _logs),
    ("Database backups archived", _archived),
)
