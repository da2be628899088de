"""The documents that the API answers with, for its OpenAPI description."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from mandate.controlplane.intake import MAX_NAME, MAX_TEXT
from mandate.controlplane.model import Stage, Verdict

_EXAMPLE: dict[str, Any] = {
    "decision_id": "6f1c0a52-8f7e-4a55-9f0b-8d1f0c1f7a10",
    "organization_id": "00000000-0000-0000-0000-000000000001",
    "domain": "finance",
    "intent": "issue_refund",
    "stage": "pre_commit",
    "actor": "refund-agent",
    "target": "order/4711",
    "context": {"amount": 740, "customer_verified": True},
    "scope": {"service": "payments", "agent": "refund-agent", "environment": "prod"},
    "timestamp": "2026-01-31T12:00:00+00:00",
    "spec_id": "finance.refund",
    "spec_version": 1,
}
_POSTED_EXAMPLE = {key: value for key, value in _EXAMPLE.items() if not key.startswith("spec")}
_VERDICT_EXAMPLE: dict[str, Any] = {
    "verdict_id": "0b0f6e0e-54c1-4f6c-8a94-0f5b5b2f3c21",
    "organization_id": "00000000-0000-0000-0000-000000000001",
    "domain": "finance",
    "decision_id": "6f1c0a52-8f7e-4a55-9f0b-8d1f0c1f7a10",
    "snapshot_id": "a0000002-0000-4000-8000-000000000002",
    "verdict": "PAUSE",
    "matched_policy_ids": ["finance-pause-large"],
    "explanation": "amount 740 > 500",
    "spec_id": "finance.refund",
    "spec_version": 1,
    "scope_id": "finance.prod.payments.refund-agent",
    "owning_team": "Payments",
    "timestamp": "2026-01-31T12:00:00+00:00",
}
_ENTRY_EXAMPLE: dict[str, Any] = {
    **{key: value for key, value in _EXAMPLE.items() if key not in ("context", "scope")},
    "entry_id": "c2f3f1de-9a51-4a7a-8b8e-3f7e5a0c9d42",
    "summary": "VERDICT_ISSUED",
    "details": {"verdict": "PAUSE"},
    "severity": "warning",
    "event_source": "system",
    "authority_level": "system",
}
_DOMAIN_EXAMPLE: dict[str, Any] = {
    "organization_id": "00000000-0000-0000-0000-000000000001",
    "domain": "finance",
    "description": "Payments, refunds and credit",
    "metadata": {},
    "created_at": "2026-01-01T00:00:00+00:00",
}
_CURSOR: Any = Field(None, description="pass it as `cursor` for the next page; null on the last one")


class Decision(BaseModel):
    """What an agent was about to do."""

    model_config = {"json_schema_extra": {"examples": [_EXAMPLE]}}

    decision_id: UUID
    organization_id: UUID | None
    domain: str | None
    intent: str
    stage: Stage
    actor: str
    target: str
    context: dict[str, Any]
    scope: dict[str, Any]
    timestamp: datetime
    spec_id: str | None
    spec_version: int | None


class JudgedDecision(Decision):
    """A decision in a list, with its latest verdict."""

    model_config = {"json_schema_extra": {"examples": [{**_EXAMPLE, "verdict": "PAUSE"}]}}

    verdict: Verdict | None


class VerdictDocument(BaseModel):
    """What Mandate answered, why and under whose authority."""

    model_config = {"title": "Verdict", "json_schema_extra": {"examples": [_VERDICT_EXAMPLE]}}

    verdict_id: UUID
    organization_id: UUID | None
    domain: str | None
    decision_id: UUID
    snapshot_id: UUID
    verdict: Verdict
    matched_policy_ids: list[str]
    explanation: Any = Field(description="as recorded; null where none was")
    spec_id: str | None
    spec_version: int | None
    scope_id: str | None = Field(description="readable id; the UUID as long as the schema is version 7")
    owning_team: str | None
    timestamp: datetime


class TimelineEntry(BaseModel):
    """One thing that happened to a decision."""

    model_config = {"json_schema_extra": {"examples": [_ENTRY_EXAMPLE]}}

    entry_id: UUID
    organization_id: UUID | None
    domain: str | None
    decision_id: UUID
    intent: str
    stage: Stage
    actor: str
    target: str
    summary: str
    details: dict[str, Any]
    severity: str
    event_source: Literal["system", "agent", "human"]
    authority_level: Literal["system", "agent", "human"]
    spec_id: str | None
    spec_version: int | None
    timestamp: datetime


class Domain(BaseModel):
    """A part of an organization that owns scopes and policies."""

    model_config = {"json_schema_extra": {"examples": [_DOMAIN_EXAMPLE]}}

    organization_id: UUID
    domain: str
    description: str | None
    metadata: dict[str, Any]
    created_at: datetime


class PostedDecision(BaseModel):
    """What an agent is about to do, as it is posted.

    What is missing of organization_id, domain, intent and stage is never inferred: the decision is recorded
    with the verdict OBSERVE.
    """

    model_config = {
        "extra": "forbid",
        "json_schema_extra": {"examples": [_POSTED_EXAMPLE]},
    }

    decision_id: UUID | None = Field(
        None, description="the caller's own, so that it can be posted again; made up where it is missing"
    )
    organization_id: UUID | None = None
    domain: str | None = Field(None, max_length=MAX_NAME, description="its name, or the UUID it once had")
    intent: str | None = Field(None, max_length=MAX_NAME)
    stage: Stage | None = None
    actor: str = Field(min_length=1, max_length=MAX_NAME)
    target: str = Field(min_length=1, max_length=MAX_NAME)
    context: dict[str, Any] | None = Field(None, description="signals and evidence")
    scope: dict[str, Any] | None = Field(
        None, description="service, agent, system, environment, tenant and evidence"
    )
    timestamp: datetime | None = Field(
        None, description="the caller's time; that of receipt where it is missing"
    )
    unstructured_context: str | None = Field(
        None, max_length=MAX_TEXT, description="text that may populate signals which context leaves out"
    )


class Judged(BaseModel):
    """A decision and its verdict."""

    decision: Decision
    verdict: VerdictDocument


class ProblemDocument(BaseModel):
    """RFC 9457 problem details. `type` is stable."""

    model_config = {"title": "Problem"}

    type: str = Field(examples=["urn:mandate:problem:malformed-parameter"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="urn:uuid: and the request id that the log has")
    parameter: str | None = Field(None, description="the parameter that was refused, if it was one")
    errors: list[dict[str, str]] | None = Field(
        None, description="everything that is wrong with a body: a JSON pointer and a detail each"
    )


class BatchLine(BaseModel):
    """The answer to one line of a batch: `verdict` where it was recorded (now or before), else `problem`."""

    line: int = Field(description="number of the line that is answered, from 1")
    decision_id: UUID | None
    status: int
    verdict: VerdictDocument | None = None
    problem: ProblemDocument | None = None


class PostedOutcome(BaseModel):
    """What became of a decision. Saying the same twice is recorded once."""

    model_config = {
        "extra": "forbid",
        "json_schema_extra": {"examples": [{"outcome": "done", "details": {"refund_id": "RF-4711"}}]},
    }

    outcome: str = Field(
        min_length=1, max_length=MAX_NAME, description="done, failed, approved, rejected, ..."
    )
    actor: str | None = Field(
        None, max_length=MAX_NAME, description="who says so; the decision's actor if missing"
    )
    severity: Literal["info", "warning", "critical"] | None = Field(None, description="info if missing")
    details: dict[str, Any] | None = None
    timestamp: datetime | None = Field(None, description="when; the time of receipt if missing")


class Organization(BaseModel):
    """Who decides."""

    organization_id: UUID
    name: str
    description: str | None
    metadata: dict[str, Any]
    created_at: datetime


class Scope(BaseModel):
    """What policies are bound to. A selector that is null matches anything."""

    scope_id: str
    organization_id: UUID | None
    domain: str | None
    environment: str | None
    service: str | None
    agent: str | None
    system: str | None
    tenant: str | None
    owning_team: str | None
    owner_contact: str | None
    description: str | None
    created_at: datetime


class Spec(BaseModel):
    """One version of the contract of a kind of decision."""

    spec_id: str
    version: int
    organization_id: UUID
    domain: str
    intent: str
    stage: Stage
    allowed_verdicts: list[Verdict]
    signals: list[Any]
    enforcement: dict[str, Any]
    status: Literal["draft", "active", "deprecated"]
    replaced_by: str | None
    created_at: datetime


class PolicySnapshot(BaseModel):
    """All policies of a domain from one moment on."""

    snapshot_id: UUID
    organization_id: UUID | None
    domain: str | None
    version: int
    policies: list[Any]
    created_at: datetime


class Scopes(BaseModel):
    """A page of scopes, by organization and id."""

    scopes: list[Scope]
    next_cursor: str | None = _CURSOR


class Specs(BaseModel):
    """A page of spec versions, by id, the newest first."""

    specs: list[Spec]
    next_cursor: str | None = _CURSOR


class PolicySnapshots(BaseModel):
    """A page of policy snapshots, newest first."""

    policy_snapshots: list[PolicySnapshot]
    next_cursor: str | None = _CURSOR


class Decisions(BaseModel):
    """A page of decisions, last received first."""

    decisions: list[JudgedDecision]
    next_cursor: str | None = _CURSOR


class Verdicts(BaseModel):
    """A page of verdicts, newest first."""

    verdicts: list[VerdictDocument]
    next_cursor: str | None = _CURSOR


class Timeline(BaseModel):
    """A page of a decision's timeline, in the order in which the server received it."""

    timeline: list[TimelineEntry]
    next_cursor: str | None = _CURSOR


class Domains(BaseModel):
    """A page of domains, by organization and name."""

    domains: list[Domain]
    next_cursor: str | None = _CURSOR


class Health(BaseModel):
    """The service can answer: its database is reachable and has a schema that it knows."""

    model_config = {
        "json_schema_extra": {"examples": [{"status": "ok", "version": "1.0.0", "schema_version": 8}]}
    }

    status: Literal["ok"]
    version: str
    schema_version: Literal[7, 8, 9]
