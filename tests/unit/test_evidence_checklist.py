"""A line of the guide's lists is ticked by figures, and by nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import report_records as records

from mandate.runbook import evidence, guarded
from mandate.runbook.migration import Migration
from mandate.runbook.record import RunRecord, Tick

COMPLETE = records.complete()


def _tick(record: RunRecord, words: str) -> Tick:
    (found,) = (tick for tick in evidence.checklist(record) if words in tick.text)
    return found


def test_words_and_order_are_the_guides() -> None:
    assert [tick.text for tick in evidence.checklist(COMPLETE)] == [
        "Pre-checks passed (all 0s/expected counts)",
        "Migration ran without errors",
        "Post-checks passed (all 0s/expected counts)",
        "domain_id columns completely gone",
        "scope_id type is TEXT",
        "No NULL domains",
        "scope_id domain prefix validation working",
        "Domain format constraint enforced",
        "Services restarted successfully",
        "API endpoints responding",
        "No application errors in logs",
        "Sample inserts tested",
        "Backup archived and labeled",
        "Execution log documented",
    ]
    assert [tick.text for tick in evidence.criteria(COMPLETE)] == [
        "All pre-checks PASS",
        "Migration runs without errors",
        "All post-checks PASS",
        "Constraint tests succeed/fail as expected",
        "Services restart cleanly",
        "APIs respond normally",
        "No errors in application logs",
        "Database backups archived",
    ]


def test_a_complete_run_ticks_every_line() -> None:
    assert all(tick.ticked for tick in (*evidence.checklist(COMPLETE), *evidence.criteria(COMPLETE)))


def test_without_evidence_no_line_is_ticked() -> None:
    """Every step claims to have passed, and none has anything to show."""
    bare = replace(COMPLETE, steps=tuple(replace(step, evidence={}) for step in COMPLETE.steps))
    for tick in (*evidence.checklist(bare), *evidence.criteria(bare)):
        assert tick.ticked is None, tick


def test_a_run_without_steps_has_looked_at_nothing() -> None:
    bare = replace(COMPLETE, steps=())
    assert {tick.ticked for tick in evidence.checklist(bare)} == {None}


def test_stored_ticks_are_not_believed() -> None:
    claimed = replace(
        records.failed_check(), checklist=tuple(replace(t, ticked=True) for t in evidence.checklist(COMPLETE))
    )
    assert not any(tick.ticked for tick in evidence.ticked(claimed).checklist)


CHANGES: Sequence[tuple[str, str, dict[str, Any], str, bool | None]] = (
    ("one check fails", "check", {"checks": [records.check("a", "a", "s", 1, status="fail")]}, "Pre-", False),
    ("a check errs", "check", {"checks": [records.check("a", "a", "s", status="error")]}, "Pre-", False),
    ("only information", "check", {"checks": [records.check("a", "a", "s", expect="any")]}, "Pre-", None),
    ("no checks", "check", {"checks": []}, "Pre-checks", None),
    (
        "the file's own summary disagrees",
        "check",
        {"checks": [records.check("readiness", "readiness", "", "NOT READY, failed: x", "any")]},
        "Pre-checks",
        False,
    ),
    ("no COMMIT", "migrate", {"statements": [{"tag": "BEGIN"}]}, "Migration ran", None),
    ("a fingerprint differs", "verify", {"fingerprints": [{"table": "t", "equal": False}]}, "Post-", False),
    (
        "domain_id left",
        "verify",
        {"checks": [records.check("domain_id_columns", "left", "s", 2, status="fail")]},
        "domain_id columns",
        False,
    ),
    (
        "type not looked at",
        "verify",
        {"checks": [records.check("domain_id_columns", "left", "s")]},
        "scope_id type",
        None,
    ),
    (
        "the second of several results fails",
        "verify",
        {
            "checks": [
                records.check("attribution_null", "scopes.domain NULL count", "s", 7, status="fail"),
                records.check("attribution_null", "decision_events.domain NULL count", "s", 0),
            ]
        },
        "No NULL domains",
        False,
    ),
    ("nothing started", "restart", {"services": {"kind": "none", "started": []}}, "Services", None),
    ("never ready", "restart", {"ready_seconds": None}, "Services", None),
    ("a call fails", "smoke", {"calls": [{"url": "u", "status": 500, "ok": False}]}, "API", False),
    ("no calls", "smoke", {"calls": []}, "API", None),
    ("vacuous filter", "smoke", {"rows_checked": 0}, "API", None),
    ("no log scanned", "smoke", {"logs": {"files": [], "lines": 0, "findings": []}}, "logs", None),
    ("a finding", "smoke", {"logs": {"files": ["f"], "findings": [{"file": "f", "line": 3}]}}, "logs", False),
    ("rows left", "probe", {"rows_left": 1}, "Sample inserts", False),
    ("rows not counted", "probe", {"rows_left": None}, "Sample inserts", None),
    ("no link", "record", {"link": None}, "Backup archived", None),
    ("no digest", "backup", {"sha256": None}, "Backup archived", None),
    ("no log file", "record", {"execution_log": None}, "Execution log", None),
    ("malformed checks", "check", {"checks": "all passed"}, "Pre-checks", None),
    ("malformed probes", "probe", {"probes": {"a": 1}}, "Sample inserts", None),
    ("malformed logs", "smoke", {"logs": "clean"}, "logs", None),
)


@pytest.mark.parametrize(("why", "step", "change", "line", "expected"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_line_follows_its_figure(
    why: str, step: str, change: dict[str, Any], line: str, expected: bool | None
) -> None:
    assert _tick(COMPLETE, line).ticked is True
    changed = records.with_evidence(COMPLETE, step, **change)
    assert _tick(changed, line).ticked is expected


def _probes(change: Callable[[dict[str, Any]], None]) -> RunRecord:
    step = COMPLETE.step("probe")
    assert step is not None
    probes = [dict(probe) for probe in step.evidence["probes"]]
    for probe in probes:
        change(probe)
    return records.with_evidence(COMPLETE, "probe", probes=probes)


def test_a_refusal_by_something_else_does_not_tick_the_constraint() -> None:
    """The bad row was refused, but by the primary key: the constraint itself was not shown to work."""

    def other(probe: dict[str, Any]) -> None:
        if probe["constraint"]:
            probe.update(constraint="domains_pkey", sqlstate="23505", message="duplicate key")

    assert _tick(_probes(other), "Domain format").ticked is None


def test_a_vacuous_probe_does_not_tick() -> None:
    """A refusal without SQLSTATE, and a constraint that refuses good rows as well."""

    def silent(probe: dict[str, Any]) -> None:
        probe["sqlstate"] = None

    def refuse_all(probe: dict[str, Any]) -> None:
        if probe["expected"] == "accepted":
            probe.update(status="fail", sqlstate="23514", got="refused")

    assert _tick(_probes(silent), "Domain format").ticked is None
    assert _tick(_probes(silent), "prefix validation").ticked is None
    refused = _probes(refuse_all)
    assert _tick(refused, "Domain format").ticked is False
    assert _tick(refused, "Sample inserts").ticked is False
    assert evidence.criteria(refused)[3].ticked is False


def test_accepted_rows_alone_are_not_a_constraint_test() -> None:
    step = COMPLETE.step("probe")
    assert step is not None
    accepted = [probe for probe in step.evidence["probes"] if not probe["sqlstate"]]
    record = records.with_evidence(COMPLETE, "probe", probes=accepted)
    assert evidence.criteria(record)[3].ticked is None
    assert _tick(record, "prefix validation").ticked is None


@pytest.mark.parametrize("status", ["pending", "running", "interrupted", "skipped"])
def test_a_step_that_has_not_finished_ticks_nothing(status: str) -> None:
    changed = records.change(COMPLETE, "smoke", status=status)
    assert _tick(changed, "API").ticked is None
    assert _tick(changed, "logs").ticked is None


def test_a_rollback_undoes_what_was_migrated_and_keeps_what_was_checked() -> None:
    record = records.rolled_back()
    assert _tick(record, "Pre-checks").ticked is True
    assert _tick(record, "domain_id columns").ticked is False
    assert "rollback" in _tick(record, "Migration ran").because
    assert not any(tick.ticked for tick in evidence.checklist(record)[1:12])


def test_a_preflight_that_failed_counts_as_pre_checks() -> None:
    failed = records.failed_check()
    check = failed.step("check")
    assert check is not None
    record = records.cut(COMPLETE, "stop")
    record = replace(record, steps=(replace(check, name="preflight"), *record.steps))
    assert "2 of 15" in _tick(record, "Pre-checks").because


def test_figures_of_a_failed_step_come_from_its_error() -> None:
    record = records.failed_check()
    step = record.step("check")
    assert step is not None
    assert step.error is not None
    moved = records.change(record, "check", evidence={}, error={**step.error, "fields": step.evidence})
    assert "2 of 15" in _tick(moved, "Pre-checks").because


@pytest.mark.parametrize("migration", guarded.ALL, ids=lambda migration: migration.name)
def test_the_verification_file_has_the_checks_that_lines_rest_on(migration: Migration) -> None:
    text = _text(migration.verification)
    for id in (id for line in migration.proven for id in line.checks):
        assert re.search(rf"^-- check: {id} expect=zero$", text, re.MULTILINE), id


@pytest.mark.parametrize("migration", guarded.ALL, ids=lambda migration: migration.name)
def test_the_files_have_the_summaries_that_are_held_against_the_checks(migration: Migration) -> None:
    assert "-- check: readiness expect=any" in _text(migration.pre_checks)
    assert "-- check: verification expect=any" in _text(migration.verification)


def test_each_migration_has_lines_of_its_own_and_an_unknown_one_none() -> None:
    shared = {tick.text for tick in evidence.checklist(replace(COMPLETE, migration="777"))}
    of_009 = list(evidence.checklist(replace(COMPLETE, migration="009")))
    assert len(shared) == 9
    assert {tick.text for tick in of_009} > shared
    keys = next(tick for tick in of_009 if tick.text == "Every key begins with organization_id")
    assert keys.ticked is None, "008 has a check of that name, and not the other"
    assert "unique_keys" in keys.because


def _text(path: Path) -> str:
    return path.read_text("utf-8")
