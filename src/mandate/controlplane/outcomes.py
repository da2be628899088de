"""What became of a decision: an OUTCOME entry at the end of its timeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from mandate.controlplane import intake
from mandate.controlplane.intake import MAX_NAME
from mandate.controlplane.store import Store
from mandate.errors import UsageError
from mandate.postgres.pool import Pool

_FIELDS = ("outcome", "actor", "severity", "details", "timestamp")
_SEVERITIES = ("info", "warning", "critical")


class InvalidOutcome(UsageError):
    """The body is a JSON object and not an outcome."""

    code = "invalid-outcome"


@dataclass(frozen=True)
class Outcome:
    """An outcome as it was posted; `canonical` is the same for every spelling of it."""

    outcome: str
    actor: str | None
    severity: str
    timestamp: datetime | None
    body: str
    canonical: str

    def entry_id(self, decision_id: str) -> str:
        """Made of the decision and of what is said, so that the same is recorded once."""
        return str(uuid5(UUID(decision_id), self.canonical))


def read_outcome(raw: bytes) -> Outcome:
    """The outcome in a body. Raises MalformedBody or InvalidOutcome."""
    body, document = intake.read_object(raw)
    unknown = document.keys() - set(_FIELDS)
    if unknown:
        raise InvalidOutcome(f"{min(unknown)[:100]!r} is no field of an outcome", field=min(unknown)[:100])
    severity = document.get("severity") or "info"
    if severity not in _SEVERITIES:
        raise InvalidOutcome(f"severity must be one of {', '.join(_SEVERITIES)}", field="severity")
    if not isinstance(document.get("details", {}), dict | None):
        raise InvalidOutcome("details must be an object", field="details")
    # Numbers by their digits: 0.1 and 0.10 are two things to say, and no float is between them.
    canonical = json.loads(body, parse_float=_digits, parse_int=_digits)
    return Outcome(
        _text(document, "outcome", required=True) or "",
        _text(document, "actor"),
        severity,
        _timestamp(document),
        body,
        json.dumps(canonical, sort_keys=True),
    )


def _digits(literal: str) -> dict[str, str]:
    return {"number": literal}


def _text(document: dict[str, Any], name: str, *, required: bool = False) -> str | None:
    value = document.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise InvalidOutcome(f"{name} must be a text of 1 to {MAX_NAME} characters", field=name)
    return value


def _timestamp(document: dict[str, Any]) -> datetime | None:
    try:
        return intake.read_timestamp(document.get("timestamp"))
    except ValueError as wanted:
        raise InvalidOutcome(f"timestamp {wanted}", field="timestamp") from None


async def append(
    store: Store, pool: Pool, chosen: Mapping[str, str], outcome: Outcome, traceparent: str | None
) -> tuple[bool, str] | None:
    """Whether the entry is new, and the entry as JSON text; None when there is no such decision.

    `chosen`: decision_id, and organization_id where two have a decision of that id. `pool` is a writing one.
    Raises DatabaseError or NotMandate.
    """
    decision_id = chosen["decision_id"]
    entry_id = outcome.entry_id(decision_id)
    received = datetime.now(UTC)
    params = {
        "decision_id": decision_id,
        "organization_id": chosen.get("organization_id"),
        "entry_id": entry_id,
        "actor": outcome.actor,
        "outcome": outcome.outcome,
        "summary": f"Outcome: {outcome.outcome}",
        "severity": outcome.severity,
        "body": outcome.body,
        "traceparent": traceparent,
        "timestamp": (outcome.timestamp or received).isoformat(),
        "received": received.isoformat(),
    }
    _, rows = await store.own("outcome", params, pool)
    if not rows[0]["decided"]:
        return None
    found = await store.shared("entry", {**chosen, "entry_id": entry_id})
    return bool(rows[0]["created"]), str(found[0]["body"])
