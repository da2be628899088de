"""The evaluator against the rules it must keep, whatever specs, policies and decisions are thrown at it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mandate.controlplane.evaluator import Evaluation, Evaluator, Outcome, unattributed
from mandate.controlplane.model import (
    SELECTORS,
    Condition,
    Decision,
    InvalidModel,
    Operator,
    Policy,
    Scalar,
    Scope,
    Signal,
    SignalSource,
    SignalType,
    Spec,
    Stage,
    Verdict,
    most_severe,
    parse_policies,
    parse_policy,
    parse_signal,
    parse_spec,
)

# A busy machine is slow to generate, which says nothing about the code.
thorough = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = ("a", "b", "c", "d", "environment")
WORDS = ("red", "green", "blue")
EVERYWHERE = Scope("everywhere")

scalars = st.one_of(
    st.sampled_from(WORDS), st.booleans(), st.integers(-3, 3), st.floats(-3, 3), st.just(float("nan"))
)
junk = st.one_of(scalars, st.none(), st.lists(scalars, max_size=2), st.dictionaries(st.text(), scalars))


@st.composite
def signals(draw: st.DrawFn, name: str) -> Signal:
    kind = draw(st.sampled_from(get_args(SignalType)))
    values = tuple(draw(st.lists(st.sampled_from(WORDS), min_size=1, unique=True))) if kind == "enum" else ()
    source: SignalSource = draw(st.sampled_from(("context", "scope")))
    return Signal(name, kind, source, draw(st.booleans()), values)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    declared = draw(st.lists(st.sampled_from(NAMES), unique=True))
    allowed = draw(st.lists(st.sampled_from(Verdict), min_size=1, unique=True))
    default = draw(st.none() | st.sampled_from(Verdict))
    found = tuple(draw(signals(name)) for name in declared)
    return Spec("s", 1, "o", "finance", "pay", Stage.PRE_COMMIT, tuple(allowed), found, default)


def value_for(signal: Signal) -> st.SearchStrategy[Scalar]:
    return {
        "boolean": st.booleans(),
        "number": st.integers(-3, 3) | st.floats(-3, 3),
        "string": st.sampled_from(WORDS),
        "enum": st.sampled_from(WORDS),
    }[signal.type]


@st.composite
def conditions(draw: st.DrawFn, spec: Spec) -> Condition:
    # A value of another type than the signal's is a defect, which is tested by itself.
    undeclared = [name for name in NAMES if all(name != signal.name for signal in spec.signals)]
    if not spec.signals or (undeclared and draw(st.integers(0, 5)) == 0):
        equality: Operator = draw(st.sampled_from(("==", "!=")))
        return Condition(draw(st.sampled_from(undeclared)), equality, draw(scalars))
    signal = draw(st.sampled_from(spec.signals))
    ordered = signal.type in ("number", "string")
    operator: Operator = draw(st.sampled_from(get_args(Operator) if ordered else ("==", "!=", "in")))
    if operator == "in":
        return Condition(signal.name, "in", tuple(draw(st.lists(value_for(signal), max_size=3))))
    return Condition(signal.name, operator, draw(value_for(signal)))


selectors = st.none() | st.sampled_from(("", *WORDS))
scopes = st.builds(
    Scope, st.sampled_from(("x", "y", "z")), selectors, selectors, selectors, selectors, selectors
)
decision_scopes = st.dictionaries(st.sampled_from((*SELECTORS, *NAMES)), junk)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Spec, list[Policy], list[Scope], Decision]:
    spec = draw(specs())
    places = [EVERYWHERE, *draw(st.lists(scopes, max_size=3, unique_by=lambda scope: scope.scope_id))]
    rules = [
        Policy(
            f"p{index}",
            draw(st.sampled_from([place.scope_id for place in places] * 4 + ["nowhere"])),
            draw(st.sampled_from(Verdict)),
            tuple(draw(st.lists(conditions(spec), max_size=2))),
            draw(st.sampled_from(("s", "s", "s", "another", None))),
        )
        for index in range(draw(st.integers(0, 4)))
    ]
    context: dict[str, Any] = draw(st.dictionaries(st.sampled_from(NAMES), junk))
    for signal in spec.signals:
        if signal.source == "context" and draw(st.integers(0, 3)):
            context[signal.name] = draw(value_for(signal))
    where = draw(decision_scopes)
    return spec, rules, places, Decision("o", "finance", "pay", Stage.PRE_COMMIT, context, where)


def kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def oracle(
    spec: Spec, rules: list[Policy], places: list[Scope], decision: Decision
) -> tuple[Verdict, list[str]]:
    """The design's words, as directly as they can be written."""
    declared: dict[str, Any] = {}
    broken = False
    for signal in spec.signals:
        value = (decision.context if signal.source == "context" else decision.scope).get(signal.name)
        right = {"enum": value in signal.values if isinstance(value, str) else False}.get(
            signal.type, kind_of(value) == {"string": "str"}.get(signal.type, signal.type) and value == value
        )
        if value is None:
            broken |= signal.required
        elif right:
            declared[signal.name] = value
        else:
            broken = True

    def holds(condition: Condition) -> bool:
        if condition.field not in declared:
            return False
        actual, expected = declared[condition.field], condition.value
        if condition.operator == "in":
            assert isinstance(expected, tuple)
            return actual in expected
        table: dict[str, bool] = {"==": actual == expected, "!=": actual != expected}
        if condition.operator in table:
            return table[condition.operator]
        order = int(actual > expected) - int(actual < expected)
        return order in {">": (1,), "<": (-1,), ">=": (0, 1), "<=": (-1, 0)}[condition.operator]

    by_id = {place.scope_id: place for place in places}
    matched = []
    for rule in rules:
        place = by_id.get(rule.scope_id)
        if rule.spec_id != spec.spec_id:
            continue
        if place is None:
            broken = True
            continue
        wanted = [(name, getattr(place, name)) for name in SELECTORS if getattr(place, name)]
        if all(decision.scope.get(name) == value for name, value in wanted) and all(
            map(holds, rule.conditions)
        ):
            matched.append(rule)
    strictest = most_severe(spec.allowed_verdicts)
    found = most_severe([rule.verdict for rule in matched]) if matched else spec.default_verdict
    if found is None:
        found = Verdict.OBSERVE if Verdict.OBSERVE in spec.allowed_verdicts else strictest
    ids = [rule.policy_id for rule in matched]
    return (strictest if broken or found not in spec.allowed_verdicts else found), ids


@thorough
@given(situations())
def test_agrees_with_the_design_and_with_itself(
    situation: tuple[Spec, list[Policy], list[Scope], Decision],
) -> None:
    spec, rules, places, decision = situation
    evaluator = Evaluator(spec, rules, places)
    found = evaluator.evaluate(decision)
    verdict, matched = oracle(spec, rules, places, decision)
    assert (found.verdict, list(found.matched_policy_ids)) == (verdict, matched)
    assert found.verdict in spec.allowed_verdicts
    assert evaluator.evaluate(decision) == found
    assert Evaluator(spec, rules, list(reversed(places))).evaluate(decision) == found


@thorough
@given(situations(), st.lists(st.dictionaries(st.sampled_from(NAMES), junk), max_size=3), st.booleans())
def test_bound_to_a_scope_it_decides_the_same(
    situation: tuple[Spec, list[Policy], list[Scope], Decision], others: list[dict[str, Any]], timed: bool
) -> None:
    spec, rules, places, first = situation
    if timed:
        spec = replace(spec, signals=(*spec.signals, Signal("hour", "number", "timestamp", required=True)))
        rules = [*rules, Policy("late", "everywhere", Verdict.PAUSE, (Condition("hour", ">", 20),), "s")]
    evaluator = Evaluator(spec, rules, places)
    bound = evaluator.bind(first.scope)
    moments = (None, datetime(2026, 1, 1, 23, tzinfo=UTC), datetime(2026, 1, 1, 3, tzinfo=UTC))
    for context in (first.context, *others, first.context):
        for moment in moments:
            found = evaluator.evaluate(replace(first, context=context, timestamp=moment))
            expected = Outcome(found.verdict, found.matched_policy_ids, found.failed_closed)
            assert bound.decide(context, moment) == expected


@thorough
@given(situations(), st.dictionaries(st.text(), junk), st.dictionaries(st.text(), junk))
def test_undeclared_keys_never_matter(
    situation: tuple[Spec, list[Policy], list[Scope], Decision],
    context: dict[str, Any],
    scope: dict[str, Any],
) -> None:
    spec, rules, places, decision = situation
    known = {signal.name for signal in spec.signals}
    more = {key: value for key, value in context.items() if key not in known}
    elsewhere = {signal.name: signal.source for signal in spec.signals}
    # A declared name in the other source is as undeclared as any.
    shadows = {key: "red" for key, source in elsewhere.items() if source == "scope"}
    extra = {k: v for k, v in scope.items() if k not in known and k not in SELECTORS}
    changed = replace(
        decision, context=more | dict(decision.context) | shadows, scope=extra | dict(decision.scope)
    )
    evaluator = Evaluator(spec, rules, places)
    assert evaluator.evaluate(changed) == evaluator.evaluate(decision)


@thorough
@given(situations(), st.sampled_from(Verdict))
def test_one_more_match_never_lowers_the_severity_of_matches(
    situation: tuple[Spec, list[Policy], list[Scope], Decision], verdict: Verdict
) -> None:
    spec, rules, places, decision = situation
    spec = replace(spec, allowed_verdicts=tuple(Verdict))
    before = Evaluator(spec, rules, places).evaluate(decision)
    more = [*rules, Policy("more", EVERYWHERE.scope_id, verdict, (), "s")]
    after = Evaluator(spec, more, places).evaluate(decision)
    assert after.matched_policy_ids == (*before.matched_policy_ids, "more")
    if before.failed_closed:
        assert after.verdict is before.verdict
    elif before.matched_policy_ids:
        assert after.verdict is most_severe([before.verdict, verdict])
    else:
        assert after.verdict is verdict


def spec_with(*declared: Signal, **changes: Any) -> Spec:
    spec = Spec("s", 1, "o", "finance", "pay", Stage.PRE_COMMIT, tuple(Verdict), declared, Verdict.ALLOW)
    return replace(spec, **changes)


def decide(
    spec: Spec,
    *conditions: Condition,
    verdict: Verdict = Verdict.PAUSE,
    scope: Scope = EVERYWHERE,
    **given: Any,
) -> Evaluation:
    policy = Policy("p", scope.scope_id, verdict, conditions, "s")
    return Evaluator(spec, [policy], [scope]).evaluate(
        Decision("o", "finance", "pay", Stage.PRE_COMMIT, **given)
    )


def test_order_of_severity() -> None:
    ranked = sorted(Verdict, key=lambda verdict: -verdict.severity)
    assert ranked == [Verdict.BLOCK, Verdict.PAUSE, Verdict.ALLOW, Verdict.OBSERVE]


@pytest.mark.parametrize("operator", get_args(Operator))
def test_a_missing_signal_makes_every_condition_false(operator: Operator) -> None:
    expected: Any = (1,) if operator == "in" else 1
    spec = spec_with(Signal("amount", "number", "context"))
    for context in ({}, {"amount": None}):
        found = decide(spec, Condition("amount", operator, expected), context=context)
        assert found.verdict is Verdict.ALLOW
        assert found.matched_policy_ids == ()
        assert found.trace[0].conditions[0].actual is None


def test_an_undeclared_field_is_a_missing_signal() -> None:
    found = decide(spec_with(), Condition("amount", "!=", 1), context={"amount": 2})
    assert (found.verdict, found.failed_closed) == (Verdict.ALLOW, False)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("number", True), ("number", "5"), ("number", float("nan")), ("number", float("inf")),
        ("number", [1]),
        ("boolean", 1), ("boolean", "true"), ("string", 1), ("string", {}), ("enum", "purple"), ("enum", 1),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_fails_closed(kind: SignalType, value: object) -> None:
    values: tuple[Scalar, ...] = WORDS if kind == "enum" else ()
    spec = spec_with(Signal("x", kind, "context", values=values))
    found = decide(spec, context={"x": value}, verdict=Verdict.OBSERVE)
    assert found.verdict is Verdict.BLOCK
    assert found.failed_closed
    assert found.reasons == (f"signal x is not a valid {kind}",)


def test_a_required_signal_that_is_missing_fails_closed_within_what_is_allowed() -> None:
    spec = spec_with(
        Signal("x", "number", "context", required=True), allowed_verdicts=(Verdict.ALLOW, Verdict.OBSERVE)
    )
    found = decide(spec, context={})
    assert (found.verdict, found.failed_closed) == (Verdict.ALLOW, True)
    assert "required signal x is missing" in found.reasons[0]


def test_true_is_not_one() -> None:
    spec = spec_with(Signal("x", "enum", "context", values=(1, "one")))
    assert decide(spec, context={"x": True}).failed_closed
    assert decide(spec, Condition("x", "==", 1), context={"x": 1.0}).matched_policy_ids == ("p",)


@pytest.mark.parametrize(
    ("declared", "condition", "says"),
    [
        (Signal("x", "number", "context"), Condition("x", ">", "5"), "x is number, compared with '5'"),
        (Signal("x", "boolean", "context"), Condition("x", ">", True), "no order"),
        (Signal("x", "enum", "context", values=WORDS), Condition("x", "<", "red"), "no order"),
        (Signal("x", "string", "context"), Condition("x", "in", "red"), "wrong kind"),
        (Signal("x", "enum", "context", values=WORDS), Condition("x", "==", 5), "compared with 5"),
    ],
)
def test_a_condition_that_cannot_be_meant_fails_closed(
    declared: Signal, condition: Condition, says: str
) -> None:
    found = decide(spec_with(declared), condition, verdict=Verdict.ALLOW, context={})
    assert (found.verdict, found.failed_closed) == (Verdict.BLOCK, True)
    assert says in found.reasons[0]


def test_an_enum_may_be_compared_with_a_value_this_version_does_not_know() -> None:
    spec = spec_with(Signal("x", "enum", "context", values=WORDS))
    assert decide(spec, Condition("x", "==", "purple"), context={"x": "red"}).verdict is Verdict.ALLOW
    assert decide(spec, Condition("x", "!=", "purple"), context={"x": "red"}).verdict is Verdict.PAUSE


def test_a_policy_of_an_unknown_scope_fails_closed() -> None:
    evaluator = Evaluator(spec_with(), [Policy("p", "gone", Verdict.OBSERVE, (), "s")], [EVERYWHERE])
    found = evaluator.evaluate(Decision("o", "finance", "pay", Stage.PRE_COMMIT))
    assert (found.verdict, found.reasons) == (Verdict.BLOCK, ("policy p is bound to unknown scope gone",))
    assert evaluator.defects == found.reasons


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"default_verdict": Verdict.PAUSE}, Verdict.PAUSE),
        ({"default_verdict": None}, Verdict.OBSERVE),
        ({"default_verdict": None, "allowed_verdicts": (Verdict.ALLOW, Verdict.PAUSE)}, Verdict.PAUSE),
        (
            {"default_verdict": Verdict.OBSERVE, "allowed_verdicts": (Verdict.ALLOW, Verdict.BLOCK)},
            Verdict.BLOCK,
        ),
    ],
)
def test_default_verdicts(changes: dict[str, Any], expected: Verdict) -> None:
    spec = spec_with(**changes)
    found = Evaluator(spec, [], [EVERYWHERE]).evaluate(Decision("o", "finance", "pay", Stage.PRE_COMMIT))
    assert found.verdict is expected
    assert found.reasons


def test_a_match_outside_the_allowed_verdicts_fails_closed() -> None:
    found = decide(spec_with(allowed_verdicts=(Verdict.ALLOW, Verdict.BLOCK)), verdict=Verdict.OBSERVE)
    assert (found.verdict, found.failed_closed, found.matched_policy_ids) == (Verdict.BLOCK, True, ("p",))


def test_the_scope_of_a_verdict() -> None:
    """The deciding policy's; without a match the most particular one, by selectors and not by id."""
    wide, narrow = Scope("a", tenant="t"), Scope("z", tenant="t", service="s", owning_team="team")
    spec = spec_with()
    decision = Decision("o", "finance", "pay", Stage.PRE_COMMIT, scope={"tenant": "t", "service": "s"})
    assert Evaluator(spec, [], [wide, narrow]).evaluate(decision).scope == narrow
    policies = [Policy("p", "z", Verdict.ALLOW, (), "s"), Policy("q", "a", Verdict.BLOCK, (), "s")]
    assert Evaluator(spec, policies, [wide, narrow]).evaluate(decision).scope == wide
    elsewhere = replace(decision, scope={"tenant": "u"})
    assert Evaluator(spec, policies, [wide, narrow]).evaluate(elsewhere).scope is None
    one, two = Scope("9", service="s"), Scope("1", tenant="t")
    swapped = [replace(one, scope_id="1"), replace(two, scope_id="9")]
    chosen = [Evaluator(spec, [], places).evaluate(decision).scope for places in ([one, two], swapped)]
    assert [scope.selectors for scope in chosen if scope] == [two.selectors, two.selectors]


@pytest.mark.parametrize("scope", [{"tenant": 5}, {"tenant": ["t"]}, {"tenant": {"t": 1}}, {"tenant": None}])
def test_hostile_scope_values_select_nothing(scope: dict[str, Any]) -> None:
    policy = Policy("p", "t", Verdict.BLOCK, (), "s")
    decision = Decision("o", "finance", "pay", Stage.PRE_COMMIT, scope=scope)
    assert (
        Evaluator(spec_with(), [policy], [Scope("t", tenant="t")]).evaluate(decision).verdict is Verdict.ALLOW
    )


def test_timestamp_signals_are_utc_and_need_no_clock() -> None:
    spec = spec_with(Signal("hour", "number", "timestamp"), Signal("weekday", "string", "timestamp"))
    late = datetime(2026, 1, 5, 1, 30, tzinfo=timezone(timedelta(hours=3)))
    conditions = (Condition("hour", ">=", 22), Condition("weekday", "==", "sunday"))
    assert decide(spec, *conditions, timestamp=late).matched_policy_ids == ("p",)
    naive = late.astimezone(UTC).replace(tzinfo=None)
    assert decide(spec, *conditions, timestamp=naive).matched_policy_ids == ("p",)
    assert decide(spec, *conditions).matched_policy_ids == ()


@pytest.mark.parametrize("name", ["organization_id", "domain", "intent", "stage"])
def test_missing_attribution_is_observed_never_inferred(name: str) -> None:
    decision = Decision("o", "finance", "pay", Stage.PRE_COMMIT)
    assert unattributed(decision) is None
    found = unattributed(replace(decision, **{name: cast(Any, None)}))
    assert found is not None
    assert found.verdict is Verdict.OBSERVE
    assert name in found.reasons[0]


def test_many_scopes_do_not_grow_the_memory_for_ever() -> None:
    evaluator = Evaluator(spec_with(), [], [EVERYWHERE])
    for number in range(5000):
        evaluator.evaluate(Decision("o", "finance", "pay", Stage.PRE_COMMIT, scope={"tenant": str(number)}))
    assert len(evaluator._applicable) <= 4096
    assert len(evaluator._concluded) <= 4096


def test_long_selectors_do_not_either() -> None:
    block = Policy("p", "t", Verdict.BLOCK, (), "s")
    long = "x" * 50_000
    evaluator = Evaluator(spec_with(), [block], [Scope("t", tenant=long)])
    for tenant in (long, *(f"{long}{number}" for number in range(50))):
        decision = Decision("o", "finance", "pay", Stage.PRE_COMMIT, scope={"tenant": tenant})
        assert (evaluator.evaluate(decision).verdict is Verdict.BLOCK) == (tenant == long)
    assert not evaluator._applicable


def test_parsing_what_migrations_004_and_006_store() -> None:
    signal = parse_signal({"name": "carrier", "type": "enum", "values": ["road"], "source": "context"})
    assert signal == Signal("carrier", "enum", "context", False, ("road",))
    policy = {
        "id": "p", "name": "n", "spec_id": "s", "scope_id": "x", "verdict": "PAUSE",
        "conditions": [{"field": "carrier", "operator": "in", "value": ["air"]}],
    }  # fmt: skip
    assert parse_policies([policy])[0].conditions == (Condition("carrier", "in", ("air",)),)
    row = {
        "spec_id": "s", "version": 1, "organization_id": "o", "domain": "d", "intent": "i",
        "stage": "proposed",
        "allowed_verdicts": ["ALLOW"], "signals": [], "enforcement": {"default_verdict": "ALLOW"},
    }  # fmt: skip
    assert parse_spec(row).default_verdict is Verdict.ALLOW


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, {"id": "p"}, {"id": "p", "scope_id": "x"},
        {"id": "p", "scope_id": "x", "verdict": "MAYBE"},
        {"id": "p", "scope_id": 5, "verdict": "ALLOW"}, {"id": "", "scope_id": "x", "verdict": "ALLOW"},
        {"id": "p", "scope_id": "x", "verdict": "ALLOW", "conditions": {}},
        {"id": "p", "scope_id": "x", "verdict": "ALLOW", "conditions": [{"field": "f", "operator": "~"}]},
        {"id": "p", "scope_id": "x", "verdict": "ALLOW", "conditions": [{"field": "f", "operator": "=="}]},
        {"id": "p", "scope_id": "x", "verdict": "ALLOW",
         "conditions": [{"field": "f", "operator": "in", "value": "abc"}]},
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_meant_is_refused(value: object) -> None:
    with pytest.raises(InvalidModel):
        parse_policy(value)


@pytest.mark.parametrize(
    "value",
    [
        5, {}, {"name": "x"}, {"name": "x", "type": "date"}, {"name": "x", "type": "enum"},
        {"name": "x", "type": "number", "source": "header"},
        {"name": "x", "type": "number", "required": "yes"},
        {"name": "x", "type": "enum", "values": [{}]},
    ],
)  # fmt: skip
def test_a_signal_that_cannot_be_meant_is_refused(value: object) -> None:
    with pytest.raises(InvalidModel):
        parse_signal(value)


def test_a_spec_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InvalidModel, match="allows no verdict"):
        spec_with(allowed_verdicts=())
    with pytest.raises(InvalidModel, match="twice"):
        spec_with(Signal("x", "number", "context"), Signal("x", "string", "scope"))
