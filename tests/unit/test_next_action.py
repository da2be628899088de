"""What a run does next, and what it asks: pure functions over records."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mandate.errors import NeedsPerson, UsageError
from mandate.runbook import identity, next_action, questions, tenant_keys
from mandate.runbook.next_action import Begin, Nothing, Refuse, Resume
from mandate.runbook.record import RunRecord, RunStatus, StepRecord, StepStatus

MIGRATION = identity.MIGRATION
NAMES = (
    "preflight",
    "stop",
    "backup",
    "rehearse",
    "check",
    "migrate",
    "verify",
    "probe",
    "restart",
    "record",
)


def record(status: RunStatus, *done: str, at: str | None = None, step: StepStatus = "running") -> RunRecord:
    """A run whose steps `done` passed and whose step `at` stands at `step`."""

    def status_of(name: str) -> StepStatus:
        return "passed" if name in done else step if name == at else "pending"

    return RunRecord(
        run_id="r1",
        migration="008",
        title="t",
        mode="plain-sql",
        database="db",
        server_version="18.4",
        mandate_version="0",
        host="h",
        operator="o",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        finished_at=None,
        status=status,
        exit_code=None,
        directory="d",
        steps=tuple(StepRecord(n, n, "", True, status_of(n), evidence={"of": n}) for n in NAMES),
    )


def statuses(found: RunRecord) -> dict[str, str]:
    return {step.name: step.status for step in found.steps}


def test_without_a_run_a_version_7_database_begins_one_and_a_version_8_one_has_nothing_to_do() -> None:
    assert next_action.decide(None, 7, MIGRATION) == Begin()
    assert isinstance(next_action.decide(None, 8, MIGRATION), Nothing)


@pytest.mark.parametrize("version", [0, 1, 5, 6])
def test_any_other_version_is_for_a_person(version: int) -> None:
    action = next_action.decide(None, version, MIGRATION)
    assert isinstance(action, Refuse)
    assert isinstance(action.error, NeedsPerson)


def test_a_migration_that_another_one_followed_has_nothing_to_do() -> None:
    action = next_action.decide(record("complete", *NAMES), 9, MIGRATION)
    assert isinstance(action, Nothing)
    assert "version 9" in action.because


@pytest.mark.parametrize(("version", "first"), [(7, "mandate run 008"), (6, "mandate db init --to 007")])
def test_a_migration_before_its_turn_names_what_comes_first(version: int, first: str) -> None:
    action = next_action.decide(None, version, tenant_keys.MIGRATION)
    assert isinstance(action, Refuse)
    assert first in str(action.error.hint)


@pytest.mark.parametrize("status", ["complete", "rolled-back"])
def test_an_ended_run_of_a_version_7_database_is_followed_by_a_new_one(status: RunStatus) -> None:
    assert next_action.decide(record(status, *NAMES), 7, MIGRATION) == Begin()


@pytest.mark.parametrize("status", ["running", "failed", "interrupted", "waiting"])
def test_an_unfinished_run_is_gone_on_with_and_proves_again_what_may_have_changed(status: RunStatus) -> None:
    action = next_action.decide(
        record(status, "preflight", "stop", "backup", "rehearse", "check", at="migrate"), 7, MIGRATION
    )
    assert isinstance(action, Resume)
    found = statuses(action.record)
    assert [name for name, each in found.items() if each == "passed"] == ["backup", "rehearse"]
    assert {found[name] for name in ("preflight", "stop", "check", "migrate", "verify")} == {"pending"}


def test_a_migration_that_is_in_the_database_is_never_run_again() -> None:
    before = ("preflight", "stop", "backup", "rehearse", "check")
    action = next_action.decide(record("running", *before, at="migrate"), 8, MIGRATION)
    assert isinstance(action, Resume)
    found = statuses(action.record)
    assert found["migrate"] == "passed"
    assert all(found[name] == "passed" for name in before)
    assert all(found[name] == "pending" for name in ("verify", "probe", "restart", "record"))


def test_a_failed_verification_is_run_again_and_what_passed_is_not() -> None:
    done = NAMES[: NAMES.index("verify")]
    action = next_action.decide(record("failed", *done, at="verify", step="failed"), 8, MIGRATION)
    assert isinstance(action, Resume)
    assert statuses(action.record)["verify"] == "pending"
    assert all(statuses(action.record)[name] == "passed" for name in done)


def test_from_may_leave_out_only_what_passed_or_is_optional() -> None:
    fresh = record("running")
    with pytest.raises(UsageError, match="would leave out stop"):
        next_action.restrict(fresh, "backup", None)
    found, wanted = next_action.restrict(fresh, "check", "migrate", frozenset({"stop", "backup"}))
    assert wanted == {"check", "migrate"}
    assert statuses(found)["stop"] == "skipped"


@pytest.mark.parametrize(("first", "last"), [("nonsense", None), (None, "nonsense"), ("verify", "check")])
def test_a_range_that_cannot_be_meant_is_refused(first: str | None, last: str | None) -> None:
    with pytest.raises(UsageError):
        next_action.restrict(record("running"), first, last)


def test_questions_fit_the_services() -> None:
    run = record("running")
    assert "Stop the services" in str(questions.before("stop", run, "systemd"))
    assert "No services are configured" in str(questions.before("stop", run, "none"))
    assert "point of no return" in str(questions.before("restart", run, "process"))
    assert questions.before("restart", run, "none") is None
    assert questions.before("verify", run, "process") is None
    planned = replace(
        run, steps=tuple(replace(s, planned_seconds=90.0) if s.name == "migrate" else s for s in run.steps)
    )
    assert "planned 90 s" in str(questions.before("migrate", planned, "none"))
