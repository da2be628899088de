"""What is written for one decision: its verdict with the reasons, and its timeline entries. Pure.

A `Recording` is one row of record.sql's arrays; the decision's own evidence travels as the posted body.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic_core import to_json

from mandate.controlplane.catalogue import Entry, Ground, Judge, Key
from mandate.controlplane.evaluator import Evaluation, unattributed
from mandate.controlplane.intake import Posted
from mandate.controlplane.model import Condition, Scalar, Scope, Stage, Verdict
from mandate.controlplane.numbers import spelled
from mandate.controlplane.populate import Populated
from mandate.controlplane.store import NOBODY
from mandate.postgres import arrays

UNATTRIBUTED = "unattributed"
_MOST_TRACED = 50
_MOST_EXPLANATION = 4000
_REMEMBERED_CONCLUSIONS = 1024
_TICK = timedelta(microseconds=1)


class Kind(NamedTuple):
    """What many decisions have in common: one row of record.sql's arrays k_..., with what judged them."""

    intent: str
    stage: str
    spec_id: str | None
    spec_version: str | None
    scope_id: str | None
    owning_team: str | None
    ground: Ground


class Columns(NamedTuple):
    """One row of record.sql's arrays, each value as PostgreSQL reads it."""

    decision_id: str
    actor: str
    target: str
    timestamp: str
    received: str
    verdict_id: str
    verdict: str
    matched: str
    issued: str
    summary: str
    recorded_id: str
    issued_id: str
    body: str
    details: str


@dataclass(slots=True)
class Recording:
    """A judged decision, ready to be written."""

    posted: Posted
    entry: Entry
    evaluation: Evaluation
    explanation: str
    kind: Kind
    columns: Columns
    recorded: str | None  # details of the first entry of the timeline, where they are not the usual ones


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
    found = None if posted.complete else unattributed(decision)
    populated: Sequence[Populated] = ()
    if found is None:
        assert judge is not None
        found, populated = judge.judge(decision, posted.text)
    issued = max(datetime.now(UTC), posted.received + _TICK)
    explanation, trace = explain(found)
    plain = posted.complete and posted.text is None and posted.traceparent is None and not populated
    recorded = None if plain else _json(_recorded(posted, populated))
    details = _json(_details(entry, found, explanation, trace))
    kind = _kind(posted, entry, judge, found.scope)
    columns = _columns(posted, found, issued, details)
    return Recording(posted, entry, found, explanation, kind, columns, recorded)


def _kind(posted: Posted, entry: Entry, judge: Judge | None, scope: Scope | None) -> Kind:
    return Kind(
        posted.intent or "",
        str(posted.stage or Stage.PROPOSED),
        judge.spec_id if judge else None,
        str(judge.version) if judge else None,
        scope.scope_id if scope else None,
        scope.owning_team if scope else None,
        entry.ground,
    )


def _columns(posted: Posted, found: Evaluation, issued: datetime, details: str) -> Columns:
    verdict_id, recorded_id, issued_id = _identifiers()
    received = posted.received.isoformat()
    return Columns(
        posted.decision_id,
        posted.actor,
        posted.target,
        posted.timestamp.isoformat() if posted.timestamp else received,
        received,
        verdict_id,
        str(found.verdict),
        _array(found.matched_policy_ids),
        issued.isoformat(),
        _summary(found.verdict, found.matched_policy_ids, found.reasons),
        recorded_id,
        issued_id,
        posted.body,
        details,
    )


@lru_cache(maxsize=_REMEMBERED_CONCLUSIONS)
def _summary(verdict: Verdict, matched: Sequence[str], reasons: Sequence[str]) -> str:
    why = ", ".join(matched) or "; ".join(reasons)
    return f"Verdict {verdict}: {why}"[:_MOST_EXPLANATION]


@lru_cache(maxsize=_REMEMBERED_CONCLUSIONS)
def _array(texts: Sequence[str]) -> str:
    return arrays.literal(texts) if texts else "{}"


def explain(found: Evaluation) -> tuple[str, list[str]]:
    """Why, in one text: what failed closed, or each policy that matched with the conditions that held; and a
    text for each policy that applied."""
    why = [*found.reasons]
    trace: list[str] = []
    for policy_id, verdict, matched, seen in found.trace:
        says, matches, does_not = _heads(policy_id, verdict)
        conditions = [_condition(*each) for each in seen]
        if matched:
            why.append(says + (" and ".join(conditions) or "always"))
        trace.append((matches if matched else does_not) + ("; ".join(conditions) or "always"))
    return "; ".join(why)[:_MOST_EXPLANATION], trace


@lru_cache(maxsize=_REMEMBERED_CONCLUSIONS)
def _heads(policy_id: str, verdict: Verdict) -> tuple[str, str, str]:
    """How what is said of a policy begins."""
    return (
        f"{policy_id} says {verdict}: ",
        f"{policy_id} ({verdict}) matches: ",
        f"{policy_id} ({verdict}) does not match: ",
    )


def _condition(condition: Condition, actual: Scalar | None, held: bool) -> str:
    before, after = condition.spelling
    return before + spelled(actual) + after if held else f"{before}{spelled(actual)}{after} (no)"


def given_attribution(posted: Posted) -> dict[str, str | None] | None:
    """What an incompletely attributed decision did say; None for a complete one."""
    if posted.complete:
        return None
    return {
        "organization_id": posted.organization_id,
        "domain": posted.domain,
        "intent": posted.intent,
        "stage": posted.stage.value if posted.stage else None,
    }


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


def _details(entry: Entry, found: Evaluation, explanation: str, trace: Sequence[str]) -> dict[str, Any]:
    details: dict[str, Any] = {
        "type": "VERDICT_ISSUED",
        "verdict": str(found.verdict),
        "snapshot_version": entry.snapshot_version,
        "explanation": explanation,
    }
    if trace:  # a text for a policy, not an object: every value inside of `details` is an entry of its index
        details["trace"] = trace[:_MOST_TRACED]
    if found.failed_closed:
        details["failed_closed"] = True
    return details


def _json(value: Any) -> str:
    return to_json(value).decode()


def _identifiers() -> tuple[str, str, str]:
    """Three version 7 UUIDs: in order of time, so that each index grows at one end."""
    stamp = f"{time.time_ns() // 1_000_000:012x}"
    begin, digits = f"{stamp[:8]}-{stamp[8:]}-7", os.urandom(27).hex()
    return (
        f"{begin}{digits[:3]}-a{digits[3:6]}-{digits[6:18]}",
        f"{begin}{digits[18:21]}-a{digits[21:24]}-{digits[24:36]}",
        f"{begin}{digits[36:39]}-a{digits[39:42]}-{digits[42:]}",
    )
