"""Whether what is declared can be meant: specs by themselves, policies against specs and scopes.

Pure. Everything here would otherwise come to light only when a decision is evaluated: a condition on a signal
that is not declared never holds, and a comparison that cannot be made fails closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from mandate.controlplane import model
from mandate.controlplane.evaluator import mismatch
from mandate.controlplane.governance import shapes
from mandate.controlplane.governance.documents import DomainEntry, Located
from mandate.controlplane.governance.source import Defect, Path

# What the evaluator reads from a timestamp, and the types that it can have.
_TIMES: Mapping[str, tuple[str, ...]] = {
    "timestamp": ("string", "enum"),
    "date": ("string", "enum"),
    "hour": ("number", "enum"),
    "weekday": ("string", "number", "enum"),
}


@dataclass(frozen=True)
class Surroundings:
    """What policies of a domain may refer to.

    `specs` by spec_id: those that will be in force, or the newest draft where none is. `unread` and
    `unread_scopes`: ids that are there and whose entries cannot be read.
    """

    domain: str
    specs: Mapping[str, Sequence[model.Spec]]
    scopes: Collection[str]
    unread: Collection[str] = frozenset()
    unread_scopes: Collection[str] = frozenset()


def spec_content(spec: shapes.Spec) -> dict[str, Any]:
    """allowed_verdicts, signals and enforcement as they are stored."""
    return {
        "allowed_verdicts": list(spec.allowed_verdicts),
        "signals": [_signal(signal) for signal in spec.signals],
        "enforcement": spec.enforcement.model_dump(exclude_none=True),
    }


def _signal(signal: shapes.Signal) -> dict[str, Any]:
    return {
        "name": signal.name,
        "type": signal.type,
        "required": signal.required,
        "source": signal.source,
        **({"values": list(signal.values)} if signal.values else {}),
        **({"description": signal.description} if signal.description else {}),
    }


def policy_content(policy: shapes.Policy) -> dict[str, Any]:
    """A policy as it is stored."""
    return {
        "id": policy.id,
        **({"name": policy.name} if policy.name else {}),
        **({"description": policy.description} if policy.description else {}),
        "spec_id": policy.spec_id,
        "scope_id": policy.scope_id,
        "conditions": [condition.model_dump() for condition in policy.conditions],
        "verdict": policy.verdict,
    }


def repeated(
    entries: Iterable[Located[Any]], identity: Callable[[Any], object], what: Callable[[Any], str]
) -> Iterator[Defect]:
    """A defect for each entry that an earlier one has the identity of."""
    seen: set[object] = set()
    for entry in entries:
        if identity(entry.value) in seen:
            yield Defect(f"{what(entry.value)} is here twice", entry.path)
        seen.add(identity(entry.value))


def check_entry(entry: DomainEntry) -> Iterator[Defect]:
    """What is wrong within one domain's entry, whatever the database has."""
    domain = entry.domain.value.domain
    for scope in entry.scopes:
        if not scope.value.scope_id.startswith(domain + "."):
            said = f"{scope.value.scope_id} does not begin with its domain and a dot: {domain}."
            yield Defect(said, (*scope.path, "scope_id"))
    yield from repeated(entry.scopes, lambda scope: scope.scope_id, lambda scope: f"scope {scope.scope_id}")
    yield from repeated(
        entry.specs,
        lambda spec: (spec.spec_id, spec.intent, spec.stage, spec.version or spec.status),
        lambda spec: f"spec {spec.spec_id}",
    )
    yield from repeated(
        [spec for spec in entry.specs if spec.value.status == "active"],
        lambda spec: (spec.intent, spec.stage),
        lambda spec: f"an active spec for {spec.intent} at {spec.stage}",
    )
    yield from repeated(entry.policies or (), lambda policy: policy.id, lambda policy: f"policy {policy.id}")
    for spec in entry.specs:
        yield from check_spec(spec)


def check_spec(spec: Located[shapes.Spec]) -> Iterator[Defect]:
    """What is wrong with a spec by itself."""
    value, path = spec.value, spec.path
    allowed = value.allowed_verdicts
    for verdict, times in Counter(allowed).items():
        if times > 1:
            yield Defect(f"{verdict} is here twice", (*path, "allowed_verdicts"))
    default = value.enforcement.default_verdict
    if default is not None and default not in allowed:
        said = f"{default} is not among allowed_verdicts: {', '.join(allowed)}"
        yield Defect(said, (*path, "enforcement", "default_verdict"))
    signals = [Located(signal, (*path, "signals", index)) for index, signal in enumerate(value.signals)]
    yield from repeated(signals, lambda signal: signal.name, lambda signal: f"signal {signal.name}")
    for signal in signals:
        yield from _check_signal(signal)


def _check_signal(signal: Located[shapes.Signal]) -> Iterator[Defect]:
    value, path = signal.value, signal.path
    if value.type == "enum" and not value.values:
        yield Defect("an enum needs `values`", path)
    if value.type != "enum" and value.values:
        yield Defect(f"only an enum has values, and {value.name} is {value.type}", (*path, "values"))
    for index, item in enumerate(value.values or ()):
        if any(_same(item, earlier) for earlier in (value.values or ())[:index]):
            yield Defect(f"{item} is here twice", (*path, "values", index))
    if value.source == "timestamp":
        types = _TIMES.get(value.name)
        if types is None:
            said = f"a timestamp has {', '.join(_TIMES)}; it has no {value.name}"
            yield Defect(said, (*path, "name"))
        elif value.type not in types:
            yield Defect(f"{value.name} of a timestamp is {' or '.join(types)}", (*path, "type"))


def check_policies(policies: Iterable[Located[shapes.Policy]], around: Surroundings) -> Iterator[Defect]:
    """What is wrong with policies, given the specs and scopes that they may refer to."""
    for policy in policies:
        if policy.value.scope_id not in around.scopes and policy.value.scope_id not in around.unread_scopes:
            said = _unknown("scope", policy.value.scope_id, around.scopes, around.domain)
            yield Defect(said, (*policy.path, "scope_id"))
        specs = around.specs.get(policy.value.spec_id, ())
        if not specs and policy.value.spec_id not in around.unread:
            said = _unknown("active or draft spec", policy.value.spec_id, around.specs, around.domain)
            yield Defect(said, (*policy.path, "spec_id"))
        for spec in specs:
            yield from _check_policy(policy, spec)


def unfit(policies: Iterable[Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with stored policies under a spec's successor that was not under the spec itself."""
    for stored in policies:
        # One that cannot be read is a mistake of its own, told elsewhere.
        with suppress(ValidationError, model.InvalidModel, AttributeError):
            known = {key: value for key, value in stored.items() if key in shapes.Policy.model_fields}
            policy = Located(shapes.Policy.model_validate(known), ())
            if policy.value.spec_id == after["spec_id"]:
                old = {defect.message for defect in _check_policy(policy, model.parse_spec(before))}
                for defect in _check_policy(policy, model.parse_spec(after)):
                    if defect.message not in old:
                        yield f"policy {policy.value.id} does not fit: {defect.message}"


def _unknown(what: str, given: str, known: Iterable[str], domain: str) -> str:
    close = get_close_matches(given, list(known), n=1)
    return f"there is no {what} {given} in domain {domain}" + (f": {close[0]}?" if close else "")


def _check_policy(policy: Located[shapes.Policy], spec: model.Spec) -> Iterator[Defect]:
    value, path = policy.value, policy.path
    if value.verdict not in spec.allowed_verdicts:
        said = f"spec {spec.spec_id} does not allow {value.verdict}: {', '.join(spec.allowed_verdicts)}"
        yield Defect(said, (*path, "verdict"))
    signals = {signal.name: signal for signal in spec.signals}
    for index, condition in enumerate(value.conditions):
        place: Path = (*path, "conditions", index)
        signal = signals.get(condition.field)
        if signal is None:
            close = get_close_matches(condition.field, list(signals), n=1)
            said = f"spec {spec.spec_id} declares no signal {condition.field}"
            yield Defect(said + (f": {close[0]}?" if close else ""), (*place, "field"))
        else:
            yield from _check_condition(condition, signal, place)


def _check_condition(condition: shapes.Condition, signal: model.Signal, path: Path) -> Iterator[Defect]:
    many = isinstance(condition.value, list)
    if condition.operator == "in" and not condition.value and many:
        yield Defect("an empty list: it would never hold", (*path, "value"))
        return
    if (condition.operator == "in") != many:
        wanted = "a list of values" if condition.operator == "in" else "one value, not a list"
        yield Defect(f"{condition.operator} needs {wanted}", (*path, "value"))
        return
    values = tuple(condition.value) if many else condition.value
    wrong = mismatch(model.Condition(condition.field, condition.operator, values), signal)
    if wrong:
        ordered = "order" in wrong
        yield Defect(wrong, (*path, "operator" if ordered else "value"))
    elif signal.type == "enum":
        for index, item in enumerate(condition.value if many else [condition.value]):
            if not any(_same(item, known) for known in signal.values):
                said = f"{item} is no value of {signal.name}: {', '.join(map(str, signal.values))}"
                yield Defect(said[:300], (*path, "value", index) if many else (*path, "value"))


def _same(left: object, right: object) -> bool:
    """Equality without Python's True == 1."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right
