"""What a verdict is derived from: decisions, specs, signals, policies and scopes as frozen values.

No I/O and no clock. `parse_*` turn stored JSON into these values and refuse what cannot be meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, cast, get_args

from pydantic_core import to_json

from mandate.controlplane.numbers import Exact
from mandate.errors import UsageError

Scalar = str | bool | int | float | Exact
Operator = Literal["==", "!=", ">", "<", ">=", "<=", "in"]
SignalType = Literal["enum", "boolean", "string", "number"]
SignalSource = Literal["scope", "context", "timestamp"]
SELECTORS = ("environment", "service", "agent", "system", "tenant")


class InvalidModel(UsageError):
    """A stored or posted spec, policy or verdict that cannot be meant; the message says why."""

    code = "invalid-model"


class Stage(StrEnum):
    """How far the action is that a decision is about."""

    PROPOSED = "proposed"
    PRE_COMMIT = "pre_commit"
    EXECUTED = "executed"


class Verdict(StrEnum):
    """The answer. Severity: BLOCK > PAUSE > ALLOW > OBSERVE."""

    OBSERVE = "OBSERVE"
    ALLOW = "ALLOW"
    PAUSE = "PAUSE"
    BLOCK = "BLOCK"

    @property
    def severity(self) -> int:
        """0 (OBSERVE) to 3 (BLOCK)."""
        return _SEVERITY[self]


_SEVERITY = {verdict: rank for rank, verdict in enumerate(Verdict)}


def most_severe(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe of at least one verdict."""
    return max(verdicts, key=lambda verdict: verdict.severity)


@dataclass(frozen=True)
class Signal:
    """A declared input of a spec: read from `source` only; `values` are those of an enum."""

    name: str
    type: SignalType
    source: SignalSource
    required: bool = False
    values: tuple[Scalar, ...] = ()


@dataclass(frozen=True)
class Spec:
    """The contract of a kind of decision."""

    spec_id: str
    version: int
    organization_id: str
    domain: str
    intent: str
    stage: Stage
    allowed_verdicts: tuple[Verdict, ...]
    signals: tuple[Signal, ...] = ()
    default_verdict: Verdict | None = None

    def __post_init__(self) -> None:
        if not self.allowed_verdicts:
            raise InvalidModel(f"spec {self.spec_id} allows no verdict")
        names = [signal.name for signal in self.signals]
        if len(set(names)) < len(names):
            raise InvalidModel(f"spec {self.spec_id} declares a signal twice")


@dataclass(frozen=True)
class Scope:
    """What policies are bound to. A selector that is None or empty matches anything."""

    scope_id: str
    environment: str | None = None
    service: str | None = None
    agent: str | None = None
    system: str | None = None
    tenant: str | None = None
    owning_team: str | None = None

    @property
    def selectors(self) -> tuple[str, ...]:
        """In the order of SELECTORS, '' where anything matches."""
        return tuple(getattr(self, name) or "" for name in SELECTORS)


@dataclass(frozen=True)
class Condition:
    """`field operator value`; the value of `in` is a tuple."""

    field: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]

    @cached_property
    def spelling(self) -> tuple[str, str]:
        """What is said before and after the actual value: `amount ` and ` > 500`."""
        return f"{self.field} ", f" {self.operator} {to_json(self.value).decode()}"


@dataclass(frozen=True)
class Policy:
    """A rule of a snapshot: it matches where all conditions hold, and always where there are none."""

    policy_id: str
    scope_id: str
    verdict: Verdict
    conditions: tuple[Condition, ...] = ()
    spec_id: str | None = None
    name: str = ""


@dataclass(slots=True)  # frozen, it would take several times as long to make
class Decision:
    """What somebody is about to do. Attribution that is missing is None, never inferred."""

    organization_id: str | None
    domain: str | None
    intent: str | None
    stage: Stage | None
    context: Mapping[str, Any] = field(default_factory=dict)
    scope: Mapping[str, Any] = field(default_factory=dict)
    timestamp: datetime | None = None

    @property
    def missing_attribution(self) -> tuple[str, ...]:
        """The attribution fields that are absent or empty."""
        names = ("organization_id", "domain", "intent", "stage")
        return tuple(name for name in names if not getattr(self, name))


def parse_verdict(value: object) -> Verdict:
    """ALLOW, PAUSE, BLOCK or OBSERVE. Raises InvalidModel."""
    if isinstance(value, str) and value in Verdict.__members__:
        return Verdict(value)
    raise InvalidModel(f"{value!r} is not a verdict", hint="ALLOW, PAUSE, BLOCK or OBSERVE")


def parse_signal(value: object) -> Signal:
    """One element of mandate_specs.signals. Raises InvalidModel."""
    entry = _mapping(value, "signal")
    name = _text(entry, "name", "signal")
    kind, source = entry.get("type"), entry.get("source", "context")
    if kind not in get_args(SignalType):
        raise InvalidModel(f"signal {name}: {kind!r} is not a type", hint="enum, boolean, string or number")
    if source not in get_args(SignalSource):
        raise InvalidModel(f"signal {name}: {source!r} is not a source", hint="scope, context or timestamp")
    values = _scalars(entry.get("values", []), f"signal {name}")
    if kind == "enum" and not values:
        raise InvalidModel(f"signal {name}: an enum needs values")
    required = entry.get("required", False)
    if not isinstance(required, bool):
        raise InvalidModel(f"signal {name}: required must be true or false")
    return Signal(name, cast(SignalType, kind), cast(SignalSource, source), required, values)


def parse_policy(value: object) -> Policy:
    """One element of policy_snapshots.policies. Raises InvalidModel."""
    entry = _mapping(value, "policy")
    policy_id = _text(entry, "id", "policy")
    where = f"policy {policy_id}"
    conditions = entry.get("conditions", [])
    if not isinstance(conditions, list):
        raise InvalidModel(f"{where}: conditions must be a list")
    spec_id = entry.get("spec_id")
    return Policy(
        policy_id,
        _text(entry, "scope_id", where),
        parse_verdict(entry.get("verdict")),
        tuple(_condition(item, where) for item in conditions),
        None if spec_id is None else _text(entry, "spec_id", where),
        str(entry.get("name", "")),
    )


def parse_policies(value: object) -> tuple[Policy, ...]:
    """The whole of policy_snapshots.policies. Raises InvalidModel."""
    if not isinstance(value, list):
        raise InvalidModel("policies must be a list")
    return tuple(parse_policy(item) for item in value)


def parse_spec(row: Mapping[str, Any]) -> Spec:
    """A row of mandate_specs, JSON columns decoded, allowed_verdicts a list. Raises InvalidModel."""
    enforcement = _mapping(row.get("enforcement") or {}, "enforcement")
    default = enforcement.get("default_verdict")
    return Spec(
        row["spec_id"],
        row["version"],
        str(row["organization_id"]),
        row["domain"],
        row["intent"],
        Stage(row["stage"]),
        tuple(parse_verdict(item) for item in row["allowed_verdicts"]),
        tuple(parse_signal(item) for item in row["signals"]),
        None if default is None else parse_verdict(default),
    )


def _condition(value: object, where: str) -> Condition:
    entry = _mapping(value, f"{where}: condition")
    name, operator = _text(entry, "field", where), entry.get("operator")
    if operator not in get_args(Operator):
        raise InvalidModel(f"{where}: {operator!r} is not an operator", hint="== != > < >= <= in")
    expected = entry.get("value")
    if operator == "in":
        return Condition(name, "in", _scalars(expected, where))
    if not isinstance(expected, str | bool | int | float):
        raise InvalidModel(f"{where}: {name} {operator} needs a string, a number, true or false")
    return Condition(name, cast(Operator, operator), expected)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise InvalidModel(f"{what} must be an object")


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if isinstance(value, str) and value:
        return value
    raise InvalidModel(f"{where}: {key} must be a text that is not empty")


def _scalars(value: object, where: str) -> tuple[Scalar, ...]:
    if isinstance(value, list | tuple) and all(isinstance(item, str | bool | int | float) for item in value):
        return tuple(value)
    raise InvalidModel(f"{where}: a list of strings, numbers or booleans is needed")
