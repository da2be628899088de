"""Signals from text: what is found, where, and that no text ever makes a verdict milder."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.unit.test_evaluator import (
    decision_scopes,
    junk,
    scalars,
    situations,
    thorough,
)

from mandate.controlplane.evaluator import Evaluator
from mandate.controlplane.model import (
    Condition,
    Decision,
    Policy,
    Scope,
    Signal,
    Spec,
    Stage,
    Verdict,
)
from mandate.controlplane.populate import MOST_COMBINATIONS, Populator, evaluate

SIGNALS = (
    Signal("amount", "number", "context"),
    Signal("customer_verified", "boolean", "context"),
    Signal("carrier", "enum", "context", values=("air", "air-freight", "road", 7)),
    Signal("reason", "string", "context"),
    Signal("environment", "string", "scope"),
)
Situation = tuple[Spec, list[Policy], list[Scope], Decision]


def found(text: str, context: dict[str, Any] | None = None) -> dict[str, list[Any]]:
    groups = Populator(SIGNALS).find(context or {}, text)
    return {group[0].signal: [each.value for each in group] for group in groups}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amount: 740", {"amount": [740]}),
        ("Amount = -12.50, thanks", {"amount": [-12.5]}),
        ("the amount is 3.", {"amount": [3]}),
        ("amount: 1 amount: 2 amount: 1", {"amount": [1, 2]}),
        ("Customer Verified: no", {"customer_verified": [False]}),
        ("customer-verified=TRUE", {"customer_verified": [True]}),
        ("carrier: AIR", {"carrier": ["air"]}),
        ("carrier: air-freight", {"carrier": ["air-freight"]}),
        ("carrier: 7", {"carrier": [7]}),
        ("carrier: aır-freıght", {"carrier": ["air-freight"]}),
        ("customer verified: yeſ", {"customer_verified": [True]}),
        ('reason: "late; again" and more', {"reason": ["late; again"]}),
        ("reason: amount: 5", {"reason": ["amount: 5"], "amount": [5]}),
        ("reason: to the end  \nof the line", {"reason": ["to the end"]}),
        ("", {}),
        ("740", {}),
        ("amount 740", {}),
        ("amount: 1,000", {}),
        ("amount: 1.2.3", {}),
        ("amount: 12%", {}),
        ("amount: 9" + "9" * 400, {}),
        ("amount:\n740", {}),
        ("amount: ٣", {"amount": [3]}),
        ("total_amount: 5", {}),
        ("customer verified: truely", {}),
        ("carrier: airship", {}),
        ("carrier: sea", {}),
        ("environment: prod", {}),
    ],
)
def test_what_is_found(text: str, expected: dict[str, list[Any]]) -> None:
    values = found(text)
    assert values == expected
    for name, value in expected.items():
        assert [type(each) for each in values[name]] == [type(each) for each in value]


def test_what_the_caller_said_is_never_overwritten() -> None:
    assert found("amount: 740", {"amount": 1}) == {}
    assert found("amount: 740", {"amount": "wrong"}) == {}
    assert found("amount: 740", {"amount": None}) == {"amount": [740]}


def test_provenance_points_into_the_text() -> None:
    text = "Hello,\nthe refund's amount: 740 EUR"
    ((one,),) = Populator(SIGNALS).find({}, text)
    assert one.as_dict(text) == {
        "signal": "amount",
        "value": 740,
        "extractor": "labelled-number",
        "start": 20,
        "end": 31,
        "excerpt": "amount: 740",
    }


def _limits(value: int, *, verdict: Verdict) -> Policy:
    return Policy(f"over-{value}", "all", verdict, (Condition("amount", ">", value),), "s")


def _evaluator(default: Verdict = Verdict.ALLOW) -> Evaluator:
    spec = Spec("s", 1, "o", "finance", "pay", Stage.PRE_COMMIT, tuple(Verdict), SIGNALS, default)
    rules = [_limits(500, verdict=Verdict.PAUSE), _limits(0, verdict=Verdict.ALLOW)]
    return Evaluator(spec, rules, [Scope("all")])


@pytest.mark.parametrize(
    ("default", "text", "verdict"),
    [
        (Verdict.ALLOW, "amount: 740", Verdict.PAUSE),
        (Verdict.ALLOW, "amount: 740\namount: 1", Verdict.PAUSE),
        (Verdict.ALLOW, "amount: 1\namount: 740", Verdict.PAUSE),
        (Verdict.PAUSE, "amount: 1", Verdict.PAUSE),
        (Verdict.BLOCK, "amount: 740", Verdict.BLOCK),
        (Verdict.ALLOW, "\n".join(f"amount: {n}" for n in range(MOST_COMBINATIONS)), Verdict.BLOCK),
    ],
)
def test_the_most_severe_reading_stands(default: Verdict, text: str, verdict: Verdict) -> None:
    evaluator = _evaluator(default)
    decision = Decision("o", "finance", "pay", Stage.PRE_COMMIT)
    assert evaluate(evaluator, Populator(SIGNALS), decision, text)[0].verdict is verdict


lines = st.lists(
    st.one_of(
        st.builds(
            "{}{}{}".format,
            st.sampled_from(("a", "b", "c", "d", "environment", "undeclared")),
            st.sampled_from((": ", "=", " is ", ":")),
            st.one_of(scalars.map(str), st.sampled_from(("yes", "no", '"red"', "1,000"))),
        ),
        st.text(max_size=20).map(lambda text: re.sub(r"\s", " ", text)),
    ),
    max_size=5,
)


@thorough
@given(situations(), lines, lines, lines)
def test_no_text_makes_a_verdict_milder(
    situation: Situation, before: list[str], text: list[str], after: list[str]
) -> None:
    spec, rules, places, decision = situation
    evaluator, populator = Evaluator(spec, rules, places), Populator(spec.signals)
    without = evaluator.evaluate(decision)
    some, _ = evaluate(evaluator, populator, decision, "\n".join(text))
    more, _ = evaluate(evaluator, populator, decision, "\n".join(before + text + after))
    assert without.verdict.severity <= some.verdict.severity <= more.verdict.severity
    assert some.verdict in spec.allowed_verdicts
    assert evaluate(evaluator, populator, decision, None)[0] == without


@thorough
@given(situations(), lines, st.dictionaries(st.text(), junk), decision_scopes)
def test_undeclared_keys_change_nothing_with_a_text_either(
    situation: Situation, text: list[str], context: dict[str, Any], scope: dict[str, Any]
) -> None:
    spec, rules, places, decision = situation
    known = {signal.name for signal in spec.signals}
    assume(not known & context.keys())
    evaluator, populator = Evaluator(spec, rules, places), Populator(spec.signals)
    joined = "\n".join(text)
    more = replace(decision, context={**context, **decision.context})
    assert evaluate(evaluator, populator, more, joined) == evaluate(evaluator, populator, decision, joined)
    shadowed = replace(decision, context={**scope, **decision.context})
    if not known & scope.keys():
        assert (
            evaluate(evaluator, populator, shadowed, joined)[0]
            == evaluate(evaluator, populator, decision, joined)[0]
        )


@pytest.mark.parametrize(
    "text",
    ["amount:" * 4600, "amount: " + "9" * 32_000, 'reason: "' * 3500, " " * 32_768, "amount is " * 3200],
)
def test_hostile_text_costs_little(text: str) -> None:
    """Against the same work on plain text of that length, so that a slow machine does not matter."""

    def cost(of: str) -> float:
        began = time.process_time()
        for _ in range(5):
            Populator(SIGNALS).find({}, of)
        return time.process_time() - began

    assert cost(text) < 200 * cost("lorem ipsum " * 2700) + 0.5
