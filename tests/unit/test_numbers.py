"""A number is judged by every digit that was written, when it is posted and when it is replayed."""

from __future__ import annotations

import json
import operator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mandate.controlplane.evaluator import Evaluator
from mandate.controlplane.governance import source
from mandate.controlplane.intake import MalformedBody, read_decision
from mandate.controlplane.model import Condition, Decision, Policy, Scope, Signal, Spec, Stage, Verdict
from mandate.controlplane.numbers import Exact, exact
from mandate.controlplane.recording import explain

COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "in": operator.eq,
}
SPEC = Spec(
    *("s", 1, "00000000-0000-0000-0000-000000000001", "finance", "pay", Stage.PRE_COMMIT),
    (Verdict.BLOCK, Verdict.OBSERVE),
    (Signal("amount", "number", "context"),),
)
HEAD = '{"actor":"a","target":"t","context":{"amount":'


def posted(literal: str) -> Any:
    return read_decision(f"{HEAD}{literal}}}}}".encode()).context["amount"]


def evaluator(op: Any, threshold: Any) -> Evaluator:
    value = (threshold,) if op == "in" else threshold
    policy = Policy("p", "w", Verdict.BLOCK, (Condition("amount", op, value),), "s")
    return Evaluator(SPEC, [policy], [Scope("w")])


def decision(value: Any) -> Decision:
    return Decision(SPEC.organization_id, "finance", "pay", SPEC.stage, {"amount": value})


near = st.builds(
    lambda base, digits, sign: f"{sign}{base}.{'0' * digits}1",
    st.sampled_from(("0", "500", "9007199254740993", "57082709261972890")),
    st.integers(0, 40),
    st.sampled_from(("", "-")),
)
written = st.one_of(
    near,
    st.floats(-1e250, 1e250).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=20, min_value=-(10**20), max_value=10**20).map(
        lambda value: format(value, "f")
    ),
    st.builds(
        "{}.{}e{}".format, st.integers(-(10**20), 10**20), st.integers(0, 10**9), st.integers(-250, 250)
    ),
    st.sampled_from(("57082709261972890.0", "1e23", "0.1", "500", "500.0", "-0.0", "5e-324")),
)
thresholds = st.one_of(
    st.sampled_from((500, 500.0, 0.1, 0, 9007199254740993, 57082709261972890)), st.integers(-(2**60), 2**60)
) | st.floats(-1e15, 1e15)


@settings(max_examples=300, deadline=None)
@given(literal=written, threshold=thresholds, op=st.sampled_from(sorted(COMPARE)))
@example("500.00000000000000001", 500, ">")
@example("0.10000000000000000001", 0.1, ">")
@example("0.10000000000000000001", 0.1, "in")
@example("499.99999999999999999", 500.0, "==")
def test_the_verdict_is_that_of_the_decimals(literal: str, threshold: Any, op: str) -> None:
    try:
        value = posted(literal)
    except MalformedBody:
        assert "e" in literal  # 5e-324 and the like: beyond what is read
        return
    wanted = Verdict.BLOCK if COMPARE[op](Decimal(literal), Decimal(repr(threshold))) else Verdict.OBSERVE
    judge = evaluator(op, threshold)
    assert judge.evaluate(decision(value)).verdict is wanted
    # jsonb has the digits without the exponent: a replay reads them so, by its faster way.
    kept = json.loads(format(Decimal(literal), "f"), parse_float=exact)
    assert judge.bind({}).decide({"amount": kept}).verdict is wanted
    assert type(kept) is type(value)
    assert kept == value


@given(st.floats(-1e15, 1e15, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-290))
def test_a_float_that_is_written_as_floats_are_stays_one(value: float) -> None:
    assert type(posted(repr(value))) in (float, int)
    assert posted(repr(value)) == value


def test_the_explanation_has_every_digit() -> None:
    found = evaluator(">", 500).evaluate(decision(posted("500.00000000000000001")))
    assert explain(found) == (
        "p says BLOCK: amount 500.00000000000000001 > 500",
        ["p (BLOCK) matches: amount 500.00000000000000001 > 500"],
    )


@pytest.mark.parametrize("literal", ["1" * 60 + "." + "1" * 60, "0.1e301", "1.5e-301"])
def test_there_are_still_limits(literal: str) -> None:
    with pytest.raises(MalformedBody, match="more than 100 digits or an exponent beyond 300"):
        posted(literal)


@pytest.mark.parametrize("body", ['{"host": "10.0.0.1.10.0.0.1.10.0.0.1"}', '{"card": 4111111111111111222}'])
def test_what_only_looks_like_a_long_number_is_read(body: str) -> None:
    given = read_decision(f'{{"actor":"a","target":"t","context":{body}}}'.encode())
    assert given.context == json.loads(body)


def test_a_threshold_that_no_float_is_is_refused_with_its_place() -> None:
    read = source.read_json(b'{"value": [1.5, 500.00000000000000001]}')
    (defect,) = read.located(read.defects)
    assert defect["pointer"] == "/value/1"
    assert defect["message"] == "500.00000000000000001 has more digits than a number keeps"


def test_an_exact_number_is_no_float() -> None:
    assert isinstance(exact("500.00000000000000001"), Exact)
