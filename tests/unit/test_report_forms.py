"""JSON, JUnit and text: the same run, well-formed whatever is in it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import report_records as records

from mandate.errors import UsageError
from mandate.runbook.record import RunRecord
from mandate.runbook.report import html, json_report, junit, source, text, words
from mandate.runbook.report.timeline import downtime_seconds, guide_rows, timeline
from mandate.runbook.report.verdict import verdict


@pytest.fixture(params=sorted(records.ALL))
def record(request: pytest.FixtureRequest) -> RunRecord:
    return records.ALL[request.param]()


def test_json_holds_the_record_and_both_lists(record: RunRecord) -> None:
    found = json.loads(json_report.render(record))
    assert found["schema"] == "mandate.report/1"
    assert found["run_id"] == record.run_id
    assert len(found["checklist"]) == 14
    assert len(found["criteria"]) == 8
    assert [step["name"] for step in found["steps"]] == [step.name for step in record.steps]
    assert found["steps"][0]["started_at"] == "2026-11-22T22:00:04.920000+00:00"


def test_json_is_plain_json_and_keeps_no_password() -> None:
    evidence = {"x": math.nan, "when": datetime(2026, 1, 1, tzinfo=UTC), "where": Path("a"), "set": {"b"}}
    record = records.change(
        records.complete(),
        "stop",
        evidence={**evidence, "dsn": "postgresql://u:hunter2@h/db"},
    )
    shown = json_report.render(record)
    assert "hunter2" not in shown
    assert "NaN" not in shown
    assert json.loads(shown)["steps"][0]["evidence"]["when"] == "2026-01-01T00:00:00+00:00"
    shown.encode("ascii")


def _suites(record: RunRecord) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(junit.render(record))
    assert root.tag == "testsuites"
    return {str(suite.get("name")): suite for suite in root}


def test_junit_counts_are_true(record: RunRecord) -> None:
    for name, suite in _suites(record).items():
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases)), name
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert suite.get(attribute) == str(len(suite.findall(f"testcase/{tag}"))), (name, tag)


def test_junit_has_a_case_per_check_probe_and_call() -> None:
    suites = _suites(records.complete())
    assert list(suites) == [step.name for step in records.complete().steps]
    assert len(suites["check"]) == 1 + 15
    assert len(suites["verify"]) == 1 + 10 + 8
    assert len(suites["probe"]) == 1 + 4
    assert len(suites["smoke"]) == 1 + 3 + 1
    assert not [case for suite in suites.values() for case in suite.iter("failure")]


def test_junit_tells_failure_from_error_and_shows_the_rows() -> None:
    suite = _suites(records.failed_check(offending=30))["check"]
    assert (suite.get("failures"), suite.get("errors")) == ("2", "1")
    failure = suite.find("testcase[@name='domain_id_null']/failure")
    assert failure is not None
    assert failure.get("message") == "domain_id NULL count: 30"
    assert "<script>alert(1)</script>" in str(failure.text)
    assert "and 10 more rows" in str(failure.text)


def test_junit_calls_a_vacuous_probe_a_failure() -> None:
    step = records.complete().step("probe")
    assert step is not None
    probes = [{**probe, "sqlstate": None} for probe in step.evidence["probes"]]
    suite = _suites(records.with_evidence(records.complete(), "probe", probes=probes))["probe"]
    assert suite.get("failures") == "2"


@settings(deadline=None)
@given(st.text(st.characters(codec=None), max_size=40))
def test_any_text_is_well_formed_in_every_form(hostile: str) -> None:
    """Control characters, lone surrogates, noncharacters, half of a markup."""
    record = records.failed_check()
    step = record.step("check")
    assert step is not None
    checks = [{**check, "title": hostile, "error": hostile} for check in step.evidence["checks"][:2]]
    record = records.with_evidence(record, "check", checks=checks)
    record = replace(record, database=hostile, operator=hostile)
    ElementTree.fromstring(junit.render(record).encode("utf-8"))
    json.loads(json_report.render(record).encode("ascii"))
    text.render(record).encode("utf-8")
    html.render(record).encode("utf-8")


def test_text_fits_80_columns(record: RunRecord) -> None:
    shown = text.render(record, now=records.START + timedelta(minutes=9))
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.endswith("\n")
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_text_fits_80_columns_with_long_words() -> None:
    long = "x" * 300
    record = records.failed_check()
    step = record.step("check")
    assert step is not None
    error = {**(step.error or {}), "message": long, "hint": long}
    record = replace(records.change(record, "check", error=error, title=long), database=long, directory=long)
    assert max(map(len, text.render(record).splitlines())) <= 80


def test_text_says_what_matters_first() -> None:
    lines = text.render(records.failed_verification()).splitlines()
    assert lines[0] == "MIGRATION 008 STOPPED: POST-MIGRATION VERIFICATION FAILED"
    whole = "\n".join(lines)
    assert "The database is migrated. The services are still stopped." in whole
    assert "mandate.decision_events differs: 1,000,000 rows before, 999,999 after" in whole
    assert "mandate rollback 008 --from-backup" in whole
    assert whole.index("What to do next") < whole.index("Timeline") < whole.index("What did not pass")


def test_a_complete_run_with_an_open_line_is_not_called_simply_complete() -> None:
    record = records.change(records.complete(), "smoke", status="skipped", evidence={})
    told = verdict(record)
    assert told.tone == "warn"
    assert "2 success criteria not met or not looked at" in told.headline


def test_rows_are_not_called_proven_when_one_table_differs_or_none_was_compared() -> None:
    bare = records.with_evidence(records.complete(), "verify", fingerprints=[])
    assert "not proven" in verdict(bare).lead
    step = records.complete().step("verify")
    assert step is not None
    prints = [dict(item) for item in step.evidence["fingerprints"]]
    prints[0]["equal"] = False
    one = records.with_evidence(records.complete(), "verify", fingerprints=prints)
    assert "not proven" in verdict(one).lead


def test_an_unknown_outcome_is_not_called_unchanged() -> None:
    record = records.cut(records.complete(), "migrate")
    record = replace(
        records.change(
            record, "migrate", status="failed", error={"code": "may-have-committed", "message": "lost"}
        ),
        status="failed",
    )
    told = verdict(record)
    assert told.state.startswith("Not known")
    assert told.next[0].command == "mandate status"


def test_a_rollback_that_failed_is_the_verdict_whatever_the_run_was() -> None:
    rollback = records.rolled_back().steps[-1]
    error = {"code": "writer-connected", "message": "psql of bob is still connected", "hint": "end it"}
    failed = replace(rollback, status="failed", error=error, evidence={})
    record = replace(records.complete(), steps=(*records.complete().steps, failed), exit_code=9)
    told = verdict(record)
    assert (told.tone, told.headline) == (
        "bad",
        "Migration 008 stopped: roll back from the backup failed",
    )
    assert told.state == "The database is migrated. The services are back."
    assert told.next[0].text == "End it."


def test_the_timeline_is_working_time() -> None:
    """A run that lay over night between two steps has bars that can still be read."""
    record = records.complete()
    night = timedelta(hours=9)
    steps = tuple(
        replace(step, started_at=step.started_at + night, finished_at=step.finished_at + night)
        if index >= 4 and step.started_at and step.finished_at
        else step
        for index, step in enumerate(record.steps)
    )
    assert record.finished_at
    line = timeline(replace(record, steps=steps, finished_at=record.finished_at + night))
    assert 313 < line.working_seconds < 314
    assert line.idle_seconds > night.total_seconds()
    assert all(bar.actual and bar.actual.start + bar.actual.length <= 1.000001 for bar in line.bars)
    assert [bar.step.name for bar in line.bars if bar.no_return] == ["restart"]
    assert line.no_return_at == steps[7].started_at


def test_a_running_step_has_a_bar_as_long_as_it_has_run() -> None:
    record = records.running()
    step = record.step("migrate")
    assert step is not None
    assert step.started_at is not None
    line = timeline(record, now=step.started_at + timedelta(seconds=12))
    assert next(bar.seconds for bar in line.bars if bar.step.name == "migrate") == 12


def test_the_guides_table_has_the_rehearsed_time_even_without_a_plan() -> None:
    record = records.change(records.complete(), "migrate", planned_seconds=None)
    row = next(row for row in guide_rows(record) if row.name == "Migration execution")
    assert (row.guide, row.rehearsed, round(row.actual or 0, 1)) == ("5-30 min", 39.5, 41.3)


def test_downtime_is_from_the_stop_to_the_restart() -> None:
    assert 310 < (downtime_seconds(records.complete()) or 0) < 312
    assert downtime_seconds(records.failed_check()) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), (0, "0.0 s"), (0.004, "0.004 s"), (3.44, "3.4 s"), (59.7, "1 min 00 s"),
        (171.9, "2 min 52 s"), (3720, "1 h 02 min"), (float("nan"), "–"), ("x", "–"),
    ],
)  # fmt: skip
def test_durations(value: object, shown: str) -> None:
    assert words.seconds(value) == shown


def test_a_record_survives_its_file(tmp_path: Path, record: RunRecord) -> None:
    """run.json as the conductor writes it: datetimes by str()."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record.as_dict(), default=str), "utf-8")
    assert source.read(path) == replace(record, directory=str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"run_id": 7}', b"[" * 50_000])
def test_a_broken_run_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"run\.json is not a run's record"):
        source.read(tmp_path / "run.json")


def test_20_000_log_lines_are_reported_briefly() -> None:
    findings = [{"file": "f.log", "line": n, "text": "error " * 20} for n in range(20_000)]
    logs = {"files": ["f.log"], "lines": 20_000, "findings": findings}
    record = records.with_evidence(records.complete(), "smoke", logs=logs)
    page = html.render(record)
    assert "the first 20 of 20,000" in page
    assert len(page) < 150_000
    assert "and 19,995 more" in text.render(record)
    assert len(junit.render(record)) < 60_000
