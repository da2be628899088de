"""What is written for one decision: its verdict with the reasons, and its timeline entries. Pure.

A `Recording` is one row of record.sql's arrays; the decision's own evidence travels as the posted body.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import to_json

from mandate.controlplane.catalogue import Entry, Judge, Key
from mandate.controlplane.evaluator import ConditionTrace, Evaluation, PolicyTrace, unattributed
from mandate.controlplane.intake import Posted
from mandate.controlplane.model import Stage, Verdict
from mandate.controlplane.populate import Populated
from mandate.controlplane.store import NOBODY

UNATTRIBUTED = "unattributed"
_MOST_TRACED = 50
_MOST_EXPLANATION = 4000
_SEVERITY = {Verdict.BLOCK: "critical", Verdict.PAUSE: "warning"}
_EMPTY = "[]"
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Recording:
    """A judged decision, ready to be written."""

    posted: Posted
    entry: Entry
    evaluation: Evaluation
    columns: Mapping[str, str | None]


def place(posted: Posted) -> Key:
    """The domain that a decision is recorded in: its own, or the place for what says not whose it is.

    A domain without an organization names nothing: two organizations may have one of that name.
    """
    if posted.organization_id is None:
        return Key(NOBODY, UNATTRIBUTED)
    return Key(posted.organization_id, posted.domain or UNATTRIBUTED)


def judged(posted: Posted, entry: Entry, judge: Judge | None) -> Recording:
    """Judge a decision by an entry that has a snapshot. `judge` is None for an unattributed decision."""
    decision = posted.decision()
    found = unattributed(decision)
    populated: Sequence[Populated] = ()
    if found is None:
        assert judge is not None
        found, populated = judge.judge(decision, posted.text)
    issued = max(datetime.now(UTC), posted.received + _TICK)
    columns = _columns(posted, entry, judge, found, issued)
    columns["recorded"] = _json(_recorded(posted, populated))
    return Recording(posted, entry, found, columns)


def _columns(
    posted: Posted, entry: Entry, judge: Judge | None, found: Evaluation, issued: datetime
) -> dict[str, str | None]:
    verdict_id, recorded_id, issued_id = _identifiers()
    explanation = explain(found)
    scope = found.scope
    received = posted.received.isoformat()
    return {
        "decision_id": posted.decision_id,
        "organization_id": entry.organization_id,
        "domain": entry.domain,
        "intent": posted.intent or "",
        "stage": (posted.stage or Stage.PROPOSED).value,
        "actor": posted.actor,
        "target": posted.target,
        "body": posted.body,
        "timestamp": posted.timestamp.isoformat() if posted.timestamp else received,
        "received": received,
        "spec_id": judge.spec_id if judge else None,
        "spec_version": str(judge.version) if judge else None,
        "verdict_id": verdict_id,
        "snapshot_id": entry.snapshot_id,
        "verdict": found.verdict.value,
        "matched": _json(found.matched_policy_ids) if found.matched_policy_ids else _EMPTY,
        "issued": issued.isoformat(),
        "scope_id": scope.scope_id if scope else None,
        "owning_team": scope.owning_team if scope else None,
        "explanation": explanation,
        "severity": _SEVERITY.get(found.verdict, "info"),
        "summary": _summary(found),
        "recorded_id": recorded_id,
        "issued_id": issued_id,
        "details": _json(_details(entry, found, explanation)),
    }


def _summary(found: Evaluation) -> str:
    why = ", ".join(found.matched_policy_ids) or "; ".join(found.reasons)
    return f"Verdict {found.verdict}: {why}"[:_MOST_EXPLANATION]


def explain(found: Evaluation) -> str:
    """Why, in one text: what failed closed, or each policy that matched with the conditions that held."""
    matched = [_explained(trace) for trace in found.trace if trace.matched]
    return "; ".join([*found.reasons, *matched])[:_MOST_EXPLANATION]


def _explained(trace: PolicyTrace) -> str:
    conditions = " and ".join(map(_condition, trace.conditions)) or "always"
    return f"{trace.policy_id} says {trace.verdict}: {conditions}"


def _condition(condition: ConditionTrace) -> str:
    return f"{condition.field} {_json(condition.actual)} {condition.operator} {_json(condition.expected)}"


def given_attribution(posted: Posted) -> dict[str, str | None] | None:
    """What an incompletely attributed decision did say; None for a complete one."""
    given = {
        "organization_id": posted.organization_id,
        "domain": posted.domain,
        "intent": posted.intent,
        "stage": posted.stage.value if posted.stage else None,
    }
    return None if all(given.values()) else given


def _recorded(posted: Posted, populated: Sequence[Populated]) -> dict[str, Any]:
    text = posted.text or ""
    details = {
        "type": "DECISION_RECORDED",
        "given": given_attribution(posted),
        "traceparent": posted.traceparent,
        "unstructured_context": posted.text,
        "populated": [each.as_dict(text) for each in populated] or None,
    }
    return {name: value for name, value in details.items() if value is not None}


def _details(entry: Entry, found: Evaluation, explanation: str) -> dict[str, Any]:
    details: dict[str, Any] = {
        "type": "VERDICT_ISSUED",
        "verdict": found.verdict.value,
        "snapshot_version": entry.snapshot_version,
        "explanation": explanation,
    }
    if found.trace:
        details["trace"] = [_traced(trace) for trace in found.trace[:_MOST_TRACED]]
    if found.failed_closed:
        details["failed_closed"] = True
    return details


def _traced(trace: PolicyTrace) -> str:
    """One text for a policy: every value inside of `details` is an entry of its index."""
    conditions = [_condition(each) + ("" if each.held else " (no)") for each in trace.conditions]
    outcome = "matches" if trace.matched else "does not match"
    return f"{trace.policy_id} ({trace.verdict}) {outcome}: {'; '.join(conditions) or 'always'}"


def _json(value: Any) -> str:
    return to_json(value).decode()


def _identifiers() -> tuple[str, str, str]:
    """Three version 7 UUIDs: in order of time, so that each index grows at one end."""
    stamp = f"{time.time_ns() // 1_000_000:012x}"
    digits = os.urandom(30).hex()
    return _uuid(stamp, digits[:20]), _uuid(stamp, digits[20:40]), _uuid(stamp, digits[40:])


def _uuid(stamp: str, digits: str) -> str:
    return f"{stamp[:8]}-{stamp[8:]}-7{digits[:3]}-a{digits[3:6]}-{digits[6:18]}"
