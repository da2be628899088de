"""Decision + spec + policies + scopes -> verdict. Pure and deterministic: no clock, no I/O, no order
that is not in the input.

`Evaluator` is built once per spec and snapshot and then asked many times: `evaluate` explains, `bind` gives
the same verdicts without a trace for many decisions of one scope. What cannot be evaluated fails closed: the
most severe verdict that the spec allows, with the reason.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from mandate.controlplane.model import (
    SELECTORS,
    Condition,
    Decision,
    Policy,
    Scalar,
    Scope,
    Signal,
    SignalSource,
    SignalType,
    Spec,
    Verdict,
    most_severe,
)
from mandate.controlplane.numbers import Exact

_REMEMBERED_SELECTORS = 4096
_LONGEST_SELECTORS = 1000  # characters together: whoever makes up longer ones finds no memory to fill
_REMEMBERED_OUTCOMES = 4096
_ORDERINGS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


class ConditionTrace(NamedTuple):
    """One condition and what became of it; `actual` is None where the signal is missing."""

    condition: Condition
    actual: Scalar | None
    held: bool


class PolicyTrace(NamedTuple):
    """One policy that applied to the decision's spec and scope."""

    policy_id: str
    verdict: Verdict
    matched: bool
    conditions: tuple[ConditionTrace, ...]


class Evaluation(NamedTuple):
    """A verdict and why. `reasons` is empty where the most severe match simply stands."""

    verdict: Verdict
    matched_policy_ids: tuple[str, ...] = ()
    scope: Scope | None = None
    trace: tuple[PolicyTrace, ...] = ()
    reasons: tuple[str, ...] = ()
    failed_closed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an Evaluation decides, without why."""

    verdict: Verdict
    matched_policy_ids: tuple[str, ...] = ()
    failed_closed: bool = False


def unattributed(decision: Decision) -> Evaluation | None:
    """OBSERVE with an explanation for a decision whose attribution is incomplete, else None."""
    missing = decision.missing_attribution
    if not missing:
        return None
    return Evaluation(Verdict.OBSERVE, reasons=(f"not attributed: {', '.join(missing)} missing",))


@dataclass(frozen=True)
class _Test:
    condition: Condition
    position: int | None
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class _Rule:
    policy: Policy
    scope: Scope | None
    tests: tuple[_Test, ...]
    defect: str | None


class _Reader(NamedTuple):
    """A declared signal, taken apart."""

    name: str
    source: SignalSource
    required: bool
    valid: Callable[[Any], bool]
    signal: Signal


class _Conclusion(NamedTuple):
    """What an Evaluation says besides its trace."""

    verdict: Verdict
    matched_policy_ids: tuple[str, ...]
    scope: Scope | None
    reasons: tuple[str, ...]
    failed_closed: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """What applies where selectors are alike: rules, the most specific scope, what is wrong with rules."""

    rules: tuple[_Rule, ...]
    scope: Scope | None
    defects: tuple[str, ...]


class Evaluator:
    """One spec, the policies of one snapshot and the scopes of its domain, compiled.

    Thread-safe as far as results go: the only state is two bounded caches, of which policies apply where, and
    of what follows from which of them match.
    """

    def __init__(self, spec: Spec, policies: Sequence[Policy], scopes: Iterable[Scope]) -> None:
        self.spec = spec
        self._scopes = sorted(scopes, key=_specific_first)
        by_id = {scope.scope_id: scope for scope in self._scopes}
        positions = {signal.name: index for index, signal in enumerate(spec.signals)}
        self._rules = [
            _compile(policy, by_id.get(policy.scope_id), spec.signals, positions)
            for policy in policies
            if policy.spec_id == spec.spec_id
        ]
        self._readers = _readers(spec.signals)
        self._applicable: dict[tuple[str | None, ...], _Place] = {}
        self._concluded: dict[tuple[_Place, tuple[bool, ...]], _Conclusion] = {}

    @property
    def defects(self) -> tuple[str, ...]:
        """What makes policies of this spec impossible to evaluate; empty when all is well."""
        return tuple(rule.defect for rule in self._rules if rule.defect)

    def evaluate(self, decision: Decision) -> Evaluation:
        """The verdict for a decision of this spec's organization, domain, intent and stage."""
        values, problems = _read(self._readers, decision)
        place = self._place(decision.scope)
        trace = tuple([_traced(rule, values) for rule in place.rules])
        matches = tuple([seen.matched for seen in trace])
        verdict, ids, scope, reasons, closed = (
            self._conclude(place, matches, (*problems, *place.defects))
            if problems or place.defects
            else self._conclusion(place, matches)
        )
        return Evaluation(verdict, ids, scope, trace, reasons, closed)

    def _conclusion(self, place: _Place, matches: tuple[bool, ...]) -> _Conclusion:
        """What follows from which rules match where nothing is wrong."""
        found = self._concluded.get((place, matches))
        if found is None:
            if len(self._concluded) >= _REMEMBERED_OUTCOMES:
                self._concluded.clear()
            found = self._concluded[place, matches] = self._conclude(place, matches, ())
        return found

    def _conclude(self, place: _Place, matches: Sequence[bool], problems: Sequence[str]) -> _Conclusion:
        matched = [rule for rule, matches_here in zip(place.rules, matches, strict=True) if matches_here]
        scope = place.scope
        if matched:
            scope = max(matched, key=lambda rule: rule.policy.verdict.severity).scope
        verdict, reasons, closed = self._verdict([rule.policy.verdict for rule in matched], problems)
        return _Conclusion(verdict, tuple(rule.policy.policy_id for rule in matched), scope, reasons, closed)

    def bind(self, scope: Mapping[str, Any]) -> Bound:
        """What decides where `scope` holds. Whoever keeps it spares itself finding the policies again."""
        return Bound(self, scope, self._place(scope).rules)

    def outcome(self, matches: Sequence[Policy]) -> Outcome:
        """The verdict where nothing is wrong and just these policies match."""
        verdict, _, closed = self._verdict([policy.verdict for policy in matches], ())
        return Outcome(verdict, tuple(policy.policy_id for policy in matches), closed)

    def _verdict(
        self, matches: Sequence[Verdict], problems: Sequence[str]
    ) -> tuple[Verdict, tuple[str, ...], bool]:
        """Verdict, reasons, and whether it failed closed."""
        allowed = self.spec.allowed_verdicts
        if problems:
            return most_severe(allowed), tuple(problems), True
        found, reason = (most_severe(matches), None) if matches else self._default()
        if found in allowed:
            return found, (reason,) if reason else (), False
        refused = f"{found} is not allowed by {self.spec.spec_id} version {self.spec.version}"
        return most_severe(allowed), (refused,), True

    def _default(self) -> tuple[Verdict, str]:
        if self.spec.default_verdict is not None:
            return self.spec.default_verdict, "no policy matched: the spec's default verdict"
        if Verdict.OBSERVE in self.spec.allowed_verdicts:
            return Verdict.OBSERVE, "no policy matched: observed"
        return most_severe(self.spec.allowed_verdicts), "no policy matched: most severe allowed verdict"

    def _place(self, scope: Mapping[str, Any]) -> _Place:
        given = tuple([value if isinstance(value, str) else None for value in map(scope.get, SELECTORS)])
        found = self._applicable.get(given)
        if found is None:
            rules = tuple(rule for rule in self._rules if rule.scope is None or _selects(rule.scope, given))
            own = next((scope for scope in self._scopes if _selects(scope, given)), None)
            defects = tuple(rule.defect for rule in rules if rule.defect)
            found = _Place(rules, own, defects)
            self._remember(given, found)
        return found

    def _remember(self, given: tuple[str | None, ...], place: _Place) -> None:
        if sum(map(len, filter(None, given))) > _LONGEST_SELECTORS:
            return
        if len(self._applicable) >= _REMEMBERED_SELECTORS:
            self._applicable.clear()
        self._applicable[given] = place


class Bound:
    """An Evaluator in one scope: policies found, signals of the scope read.

    `decide` gives just what `Evaluator.evaluate` gives, several times as fast. State as there.
    """

    def __init__(self, evaluator: Evaluator, scope: Mapping[str, Any], rules: Sequence[_Rule]) -> None:
        self._evaluator = evaluator
        self._scope = scope
        self._policies = [rule.policy for rule in rules]
        self._tests = [[(test.position, test.holds) for test in rule.tests] for rule in rules]
        self._inputs, self._fixed, sound = _inputs(evaluator.spec.signals, scope)
        self._sound = sound and not any(rule.defect for rule in rules)
        self._outcomes: dict[tuple[int, ...], Outcome] = {}

    def decide(self, context: Mapping[str, Any], timestamp: datetime | None = None) -> Outcome:
        """The outcome for a decision with this context and time. A loop for a million decisions."""
        values = self._fixed.copy()
        sound = self._sound
        for position, signal, valid in self._inputs:
            if signal.source == "context":
                value = context.get(signal.name)
            else:
                value = None if timestamp is None else _from_timestamp(signal, timestamp)
            if value is None:
                sound = sound and not signal.required
            elif valid(value):
                values[position] = value
            else:
                sound = False
        if not sound:
            return self._explained(context, timestamp)
        matched: list[int] = []
        for index, tests in enumerate(self._tests):
            for place, holds in tests:
                if place is None or (actual := values[place]) is None or not holds(actual):
                    break
            else:
                matched.append(index)
        return self._outcome(tuple(matched))

    def _outcome(self, matched: tuple[int, ...]) -> Outcome:
        found = self._outcomes.get(matched)
        if found is None:
            if len(self._outcomes) >= _REMEMBERED_OUTCOMES:
                self._outcomes.clear()
            found = self._evaluator.outcome([self._policies[index] for index in matched])
            self._outcomes[matched] = found
        return found

    def _explained(self, context: Mapping[str, Any], timestamp: datetime | None) -> Outcome:
        spec = self._evaluator.spec
        found = self._evaluator.evaluate(
            Decision(
                spec.organization_id, spec.domain, spec.intent, spec.stage, context, self._scope, timestamp
            )
        )
        return Outcome(found.verdict, found.matched_policy_ids, found.failed_closed)


_Input = tuple[int, Signal, Callable[[Any], bool]]


def _inputs(
    signals: Sequence[Signal], scope: Mapping[str, Any]
) -> tuple[list[_Input], list[Scalar | None], bool]:
    """Signals that vary within a scope, values of those that do not, and whether these are sound."""
    nowhere = Decision(None, None, None, None, scope=scope)
    fixed, problems = _read(_readers([s for s in signals if s.source == "scope"]), nowhere)
    known = iter(fixed)
    inputs: list[_Input] = []
    values: list[Scalar | None] = []
    for position, signal in enumerate(signals):
        varies = signal.source != "scope"
        values.append(None if varies else next(known))
        if varies:
            inputs.append((position, signal, _validity(signal)))
    return inputs, values, not problems


def _validity(signal: Signal) -> Callable[[Any], bool]:
    kind, values = signal.type, signal.values
    if kind == "boolean":
        return lambda value: isinstance(value, bool)
    if kind == "string":
        return lambda value: isinstance(value, str)
    if kind == "number":
        return _is_number
    if all(isinstance(value, str) for value in values):
        members = frozenset(values)
        return lambda value: isinstance(value, str) and value in members
    return lambda value: _is_a(value, kind, values)


def _readers(signals: Iterable[Signal]) -> tuple[_Reader, ...]:
    return tuple(
        _Reader(signal.name, signal.source, signal.required, _validity(signal), signal) for signal in signals
    )


def _read(readers: Iterable[_Reader], decision: Decision) -> tuple[list[Scalar | None], list[str]]:
    """Declared values in order (None where missing) and what is wrong with them.

    A JSON null counts as missing. A value of the wrong type, outside an enum's values, or a required one
    that is missing is a problem; nothing is ever converted.
    """
    values: list[Scalar | None] = []
    problems: list[str] = []
    for name, source, required, valid, signal in readers:
        if source == "context":
            value = decision.context.get(name)
        elif source == "scope":
            value = decision.scope.get(name)
        else:
            value = None if decision.timestamp is None else _from_timestamp(signal, decision.timestamp)
        if value is None:
            if required:
                problems.append(f"required signal {name} is missing from {source}")
        elif not valid(value):
            problems.append(f"signal {name} is not a valid {signal.type}")
            value = None
        values.append(value)
    return values, problems


_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _from_timestamp(signal: Signal, timestamp: datetime) -> Scalar | None:
    """timestamp and date as text, hour as number, weekday as number (1 is Monday) or name; all in UTC.

    A timestamp without a zone is taken for UTC, never for this machine's zone.
    """
    moment = timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp.astimezone(UTC)
    if signal.name == "weekday":
        return moment.isoweekday() if signal.type == "number" else _WEEKDAYS[moment.weekday()]
    known: dict[str, Scalar] = {
        "timestamp": moment.isoformat(),
        "date": moment.date().isoformat(),
        "hour": moment.hour,
    }
    return known.get(signal.name)


def _is_a(value: object, kind: SignalType, values: Sequence[Scalar]) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "number":
        return _is_number(value)
    if kind == "string":
        return isinstance(value, str)
    return any(_same(value, allowed) for allowed in values)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return isinstance(value, Exact)
    return isinstance(value, int) or math.isfinite(value)


def _same(left: object, right: object) -> bool:
    """Equality without Python's True == 1."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _specific_first(scope: Scope) -> tuple[int, tuple[str, ...], str]:
    # Selectors before the id: the ids change with migration 008, the choice must not.
    selectors = scope.selectors
    return -sum(map(bool, selectors)), selectors, scope.scope_id


def _selects(scope: Scope, given: tuple[str | None, ...]) -> bool:
    return all(not wanted or wanted == got for wanted, got in zip(scope.selectors, given, strict=True))


def _compile(
    policy: Policy, scope: Scope | None, signals: Sequence[Signal], positions: Mapping[str, int]
) -> _Rule:
    tests: list[_Test] = []
    defect = None if scope else f"policy {policy.policy_id} is bound to unknown scope {policy.scope_id}"
    for condition in policy.conditions:
        position = positions.get(condition.field)
        if position is not None and (wrong := mismatch(condition, signals[position])):
            defect = defect or f"policy {policy.policy_id}: {wrong}"
            position = None
        tests.append(_Test(condition, position, _predicate(condition)))
    return _Rule(policy, scope, tuple(tests), defect)


def mismatch(condition: Condition, signal: Signal) -> str | None:
    """Why a condition can never be meant for its signal, or None."""
    if condition.operator in _ORDERINGS and signal.type not in ("number", "string"):
        return f"{signal.name} is {signal.type}, which has no order"
    expected = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    if (condition.operator == "in") != isinstance(condition.value, tuple):
        return f"{condition.field} {condition.operator} has a value of the wrong kind"
    if not all(_comparable(value, signal) for value in expected):
        return f"{signal.name} is {signal.type}, compared with {condition.value!r}"
    return None


def _comparable(value: Scalar, signal: Signal) -> bool:
    if signal.type != "enum":
        return _is_a(value, signal.type, ())
    # Not membership: a snapshot may know values that an older version of the spec did not.
    return any(_kind(value) is _kind(known) for known in signal.values)


def _kind(value: Scalar) -> type:
    return float if _is_number(value) else type(value)


def _predicate(condition: Condition) -> Callable[[Any], bool]:
    expected = condition.value
    if condition.operator == "==":
        return lambda actual: _same(actual, expected)
    if condition.operator == "!=":
        return lambda actual: not _same(actual, expected)
    if condition.operator == "in":
        members = expected if isinstance(expected, tuple) else ()
        return lambda actual: any(_same(actual, member) for member in members)
    compare = _ORDERINGS[condition.operator]
    return lambda actual: compare(actual, expected)


def _traced(rule: _Rule, values: Sequence[Scalar | None]) -> PolicyTrace:
    matched = rule.defect is None
    seen: list[ConditionTrace] = []
    for test in rule.tests:
        actual = None if test.position is None else values[test.position]
        held = actual is not None and test.holds(actual)
        matched = matched and held
        seen.append(ConditionTrace(test.condition, actual, held))
    return PolicyTrace(rule.policy.policy_id, rule.policy.verdict, matched, tuple(seen))
