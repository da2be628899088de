"""The report as JUnit XML: a suite per step, a case per check, fingerprint, probe and call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from mandate.runbook.checklist import evidence_of, items, passes
from mandate.runbook.record import RunRecord, StepRecord
from mandate.runbook.report.words import aware, cell, cleaned

MAX_DETAIL_ROWS = 20


@dataclass(frozen=True)
class _Case:
    name: str
    kind: str
    status: str  # pass, fail, error or skipped
    message: str = ""
    detail: str = ""
    seconds: float = 0.0


def render(record: RunRecord) -> str:
    """Well-formed XML whatever the evidence holds; characters that XML forbids are shown escaped."""
    shown = cleaned(record)
    suites = [_suite(shown, step) for step in shown.steps]
    root = Element("testsuites", {"name": f"mandate {shown.migration} {shown.run_id}", **_totals(suites)})
    root.extend(suites)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _suite(record: RunRecord, step: StepRecord) -> Element:
    cases = [_step_case(step), *_cases(step)]
    suite = Element(
        "testsuite",
        {
            "name": step.name,
            "tests": str(len(cases)),
            "failures": _count(cases, "fail"),
            "errors": _count(cases, "error"),
            "skipped": _count(cases, "skipped"),
            "time": f"{step.seconds or 0:.3f}",
            "hostname": record.host,
        },
    )
    if step.started_at:
        suite.set("timestamp", aware(step.started_at).isoformat())
    for case in cases:
        suite.append(_element(record, step, case))
    return suite


def _count(cases: list[_Case], status: str) -> str:
    return str(sum(case.status == status for case in cases))


def _totals(suites: list[Element]) -> dict[str, str]:
    names = ("tests", "failures", "errors", "skipped")
    totals = {name: str(sum(int(suite.get(name, "0")) for suite in suites)) for name in names}
    return {**totals, "time": f"{sum(float(suite.get('time', '0')) for suite in suites):.3f}"}


def _element(record: RunRecord, step: StepRecord, case: _Case) -> Element:
    classname = f"mandate.{record.migration}.{step.name}.{case.kind}"
    attributes = {"classname": classname, "name": case.name, "time": f"{case.seconds:.3f}"}
    element = Element("testcase", attributes)
    if case.status != "pass":
        tag = {"fail": "failure", "skipped": "skipped"}.get(case.status, "error")
        result = SubElement(element, tag, {"message": case.message})
        if case.detail:
            result.text = case.detail
    return element


def _step_case(step: StepRecord) -> _Case:
    """The step itself, so that a step without checks still shows how it ended."""
    error = step.error or {}
    message = str(error.get("message") or step.summary or step.status)
    status = {"passed": "pass", "failed": "fail", "pending": "skipped", "skipped": "skipped"}
    return _Case(
        step.title,
        "step",
        status.get(step.status, "error"),
        message if step.status in ("passed", "failed", "skipped") else step.status,
        str(error.get("hint") or ""),
        step.seconds or 0.0,
    )


def _cases(step: StepRecord) -> Iterator[_Case]:
    evidence = evidence_of(step)
    yield from map(_check, items(evidence.get("checks")))
    yield from map(_fingerprint, items(evidence.get("fingerprints")))
    yield from map(_restored, items(evidence.get("tables")))
    yield from map(_probe, items(evidence.get("probes")))
    yield from map(_call, items(evidence.get("calls")))
    logs = evidence.get("logs")
    if isinstance(logs, Mapping):
        yield _logs(logs)


def _check(check: Mapping[str, Any]) -> _Case:
    rows = items(check.get("rows"))
    lines = [cell(row) for row in rows[:MAX_DETAIL_ROWS]]
    if len(rows) > MAX_DETAIL_ROWS:
        lines.append(f"and {len(rows) - MAX_DETAIL_ROWS} more rows")
    if check.get("fix"):
        lines.append(f"fix: {check['fix']}")
    message = check.get("error") or f"{check.get('title')}: {check.get('result')}"
    status = str(check.get("status"))
    return _Case(
        str(check.get("id")),
        "check",
        status if status in ("pass", "fail") else "error",
        str(message),
        "\n".join(lines),
    )


def _fingerprint(table: Mapping[str, Any]) -> _Case:
    message = (
        f"{table.get('rows_before')} rows {table.get('before')} before,"
        f" {table.get('rows_after')} rows {table.get('after')} after"
    )
    return _Case(
        str(table.get("table")), "fingerprint", "pass" if table.get("equal") is True else "fail", message
    )


def _restored(table: Mapping[str, Any]) -> _Case:
    before, after = table.get("fingerprint"), table.get("restored_fingerprint")
    return _Case(
        str(table.get("table")),
        "backup",
        "pass" if before and before == after else "fail",
        f"{before} in the database, {after} restored",
    )


def _probe(probe: Mapping[str, Any]) -> _Case:
    status = str(probe.get("status"))
    if status == "pass" and not passes(probe):
        status = "fail"
    message = f"expected {probe.get('expected')}, got {probe.get('got')}"
    return _Case(
        str(probe.get("name")),
        "probe",
        status if status in ("pass", "fail") else "error",
        message,
        f"{probe.get('sql')}\n{probe.get('message') or ''}",
    )


def _call(call: Mapping[str, Any]) -> _Case:
    took = call.get("milliseconds")
    return _Case(
        str(call.get("url")),
        "call",
        "pass" if call.get("ok") else "fail",
        f"{call.get('status') or 'no answer'}: {call.get('detail') or ''}",
        seconds=took / 1000 if isinstance(took, int | float) else 0.0,
    )


def _logs(logs: Mapping[str, Any]) -> _Case:
    findings = items(logs.get("findings"))
    if not findings:
        scanned = bool(logs.get("files"))
        return _Case("logs", "logs", "pass" if scanned else "skipped", "no log file was scanned")
    lines = [f"{one.get('file')}:{one.get('line')}: {one.get('text')}" for one in findings[:MAX_DETAIL_ROWS]]
    return _Case("logs", "logs", "fail", f"{len(findings)} lines", "\n".join(lines))
