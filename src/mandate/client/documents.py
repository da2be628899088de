"""What is sent and what comes back, as typed data. Members that a newer service adds are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict, TypeVar, get_args
from uuid import UUID

from mandate.client.errors import BadAnswer, Blocked, Paused, Problem

VerdictName = Literal["BLOCK", "PAUSE", "ALLOW", "OBSERVE"]
Stage = Literal["proposed", "pre_commit", "executed"]
Severity = Literal["info", "warning", "critical"]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

# As annotations spell it.
_TEXTS = frozenset({"str", "VerdictName"})
_NAMES: frozenset[str] = frozenset(get_args(VerdictName))


class Attribution(TypedDict, total=False):
    """What is the same for all decisions of an agent. Whatever a single decision says comes first."""

    organization_id: str | UUID
    domain: str
    actor: str
    scope: Mapping[str, Any]


class DecisionFields(Attribution, total=False):
    """A decision as it is posted. `decision_id` is made up where it is missing."""

    decision_id: str | UUID
    intent: Required[str]
    stage: Stage
    target: Required[str]
    context: Mapping[str, Any]
    timestamp: datetime
    unstructured_context: str


class OutcomeFields(TypedDict, total=False):
    """What became of a decision, beside the word for it."""

    actor: str
    severity: Severity
    details: Mapping[str, Any]
    timestamp: datetime


class Filters(TypedDict, total=False):
    """What a list of decisions or verdicts is narrowed to; `since` and `until` by time of receipt."""

    organization_id: str | UUID
    domain: str
    verdict: VerdictName
    intent: str
    stage: Stage
    actor: str
    target: str
    scope_id: str
    since: datetime
    until: datetime
    limit: int


@dataclass(frozen=True)
class Decision:
    """What an agent was about to do. `verdict` is there in lists only."""

    decision_id: str
    organization_id: str | None
    domain: str | None
    intent: str
    stage: str
    actor: str
    target: str
    context: dict[str, Any]
    scope: dict[str, Any]
    timestamp: datetime
    spec_id: str | None
    spec_version: int | None
    verdict: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What Mandate answered, why and under whose authority."""

    verdict_id: str
    organization_id: str | None
    domain: str | None
    decision_id: str
    snapshot_id: str
    verdict: VerdictName
    matched_policy_ids: list[str]
    explanation: Any
    spec_id: str | None
    spec_version: int | None
    scope_id: str | None
    owning_team: str | None
    timestamp: datetime

    @property
    def allows(self) -> bool:
        """Whether the action may happen: ALLOW, or OBSERVE, which watches and stops nothing."""
        return self.verdict in ("ALLOW", "OBSERVE")

    def require(self) -> Verdict:
        """This verdict if it lets the action happen. Raises Blocked or Paused."""
        if self.verdict == "PAUSE":
            raise Paused(self)
        if not self.allows:
            raise Blocked(self)
        return self


@dataclass(frozen=True)
class TimelineEntry:
    """One thing that happened to a decision."""

    entry_id: str
    organization_id: str | None
    domain: str | None
    decision_id: str
    intent: str
    stage: str
    actor: str
    target: str
    summary: str
    details: dict[str, Any]
    severity: str
    event_source: str
    authority_level: str
    spec_id: str | None
    spec_version: int | None
    timestamp: datetime


@dataclass(frozen=True)
class BatchAnswer:
    """The answer to one decision of a batch: a verdict, or the problem that it has."""

    decision_id: str
    verdict: Verdict | None
    problem: Problem | None

    def require(self) -> Verdict:
        """The verdict if it lets the action happen. Raises Blocked, Paused or the problem."""
        if self.verdict is None:
            raise self.problem or BadAnswer("neither a verdict nor a problem")
        return self.verdict.require()


def verdict(document: Any) -> Verdict:
    """A verdict from its document. Raises BadAnswer, for a verdict of an unknown name too."""
    found = _read(Verdict, document)
    if found.verdict not in _NAMES:
        raise BadAnswer(f"{str(found.verdict)[:40]!r} is no verdict that this client knows")
    return found


def decision(document: Any) -> Decision:
    """A decision from its document. Raises BadAnswer."""
    return _read(Decision, document)


def entry(document: Any) -> TimelineEntry:
    """A timeline entry from its document. Raises BadAnswer."""
    return _read(TimelineEntry, document)


def _read(kind: type[T], document: Any) -> T:
    """The members that `kind` has. Raises BadAnswer where one is missing or cannot be meant."""
    if not isinstance(document, dict):
        raise BadAnswer(f"a {kind.__name__} is not an object")
    known = {member.name: member for member in fields(kind)}
    for name, member in known.items():
        if member.default is MISSING and name not in document:
            raise BadAnswer(f"a {kind.__name__} has no {name}", hint="is this Mandate's address?")
        if member.type in _TEXTS and not isinstance(document[name], str):
            raise BadAnswer(f"{name} of a {kind.__name__} is no text")
    values = {name: value for name, value in document.items() if name in known}
    try:
        values["timestamp"] = datetime.fromisoformat(values["timestamp"])
    except (TypeError, ValueError):
        raise BadAnswer(f"the timestamp of a {kind.__name__} is none") from None
    return kind(**values)
