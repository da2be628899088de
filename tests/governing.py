"""A mandate.yaml to take apart, and the places of what is wrong with one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import strategies as st

from mandate.controlplane.governance import checking, documents, source
from mandate.controlplane.governance.planning import Plan
from mandate.controlplane.governance.source import InvalidDocument
from mandate.controlplane.governance.state import State

WHOLE = """\
mandate: 1
organization:
  name: Acme
  description: An example
domains:
  - domain: billing
    description: Payments and refunds
    scopes:
      - scope_id: billing.prod.payments
        environment: prod
        service: payments
        owning_team: Payments
      - scope_id: billing.default
    specs:
      - spec_id: billing.refund
        intent: issue_refund
        stage: pre_commit
        allowed_verdicts: [ALLOW, PAUSE, BLOCK, OBSERVE]
        enforcement:
          default_verdict: ALLOW
        signals:
          - name: amount
            type: number
            required: true
          - name: customer_verified
            type: boolean
            required: true
          - name: channel
            type: enum
            values: [web, phone, no]
          - name: environment
            type: string
            source: scope
    policies:
      - id: pause-large
        name: A person looks at large refunds
        spec_id: billing.refund
        scope_id: billing.prod.payments
        conditions:
          - field: amount
            operator: ">"
            value: 500
        verdict: PAUSE
      - id: block-unverified
        spec_id: billing.refund
        scope_id: billing.default
        conditions:
          - {field: customer_verified, operator: "==", value: false}
          - {field: channel, operator: in, value: [web, phone]}
        verdict: BLOCK
  - domain: logistics
"""


def defects(text: str | bytes, *, candidate: bool = False) -> list[str]:
    """`line:column message` of everything that is wrong with a file by itself."""
    data = text.encode() if isinstance(text, str) else text
    try:
        read = source.read_yaml(data, "m.yaml")
    except InvalidDocument as error:
        return _short(error.fields["defects"])
    document = documents.parse_candidate(read) if candidate else documents.parse(read)
    found = list(document.defects)
    for organization in document.organizations:
        for entry in organization.domains:
            found += checking.check_entry(entry)
    return _short(read.located(found))


def changed(old: str, new: str, text: str = WHOLE) -> str:
    """The file with one part replaced, which must be there once."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def only(found: list[str], place: str, words: str) -> None:
    """Assert that there is one defect, at `place`, with `words` in it."""
    assert len(found) == 1, found
    if not found[0].startswith(f"{place} ") or words not in found[0]:
        pytest.fail(f"{found[0]!r} is not at {place} with {words!r}")


def _short(located: list[dict[str, Any]]) -> list[str]:
    return [f"{defect['line']}:{defect['column']} {defect['message']}" for defect in located]


def as_yaml(files: Iterable[Any]) -> str:
    """Documents as JSON, which is YAML where line breaks of Unicode are escaped."""
    text = "\n---\n".join(json.dumps(file, ensure_ascii=False) for file in files)
    return re.sub("[\x7f-\xa0\u2028\u2029\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def tables(state: State) -> tuple[tuple[Any, ...], ...]:
    """The rows of a state, table by table."""
    return state.organizations, state.domains, state.scopes, state.specs, state.snapshots


def after(state: State, plan: Plan) -> State:
    """The rows that a database has once a plan is written, in the order in which they are read."""
    kinds = ("organization", "domain", "scope", "spec", "policies")
    new = {kind: [change.row for change in plan.creations if change.kind == kind] for kind in kinds}
    rows = [[*old, *new[kind]] for old, kind in zip(tables(state), kinds, strict=True)]
    newest = {(row["organization_id"], row["domain"]): row for row in rows[4]}
    orders = (
        ("name", "organization_id"),
        ("organization_id", "domain"),
        ("organization_id", "domain", "scope_id"),
        ("organization_id", "domain", "spec_id", "version"),
        ("organization_id", "domain"),
    )
    return State(
        *(
            tuple(sorted(each, key=lambda row, names=names: [row[name] for name in names]))  # type: ignore[misc]
            for each, names in zip([*rows[:4], newest.values()], orders, strict=True)
        )
    )


# Texts that YAML has other ideas about, and some that nobody has seen.
_ODD = (
    "no",
    "null",
    "1e3",
    "0o17",
    "08",
    "1_000",
    "12:30",
    "<<",
    "~",
    "=",
    "- x",
    "a: b",
    "# x",
    "'",
    '"',
    "\u2028",
)
_texts = st.sampled_from(_ODD) | st.text(
    st.characters(min_codepoint=32, exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=12
)
_names = _texts.map(str.strip).filter(lambda text: text and len(text.splitlines()) == 1)
_keys = _texts.map(lambda text: "".join(text.split())).filter(bool)
_scalars = st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    _texts | _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)
_VERDICTS = ("ALLOW", "PAUSE", "BLOCK", "OBSERVE")
_STAGES = ("proposed", "pre_commit", "executed")


@st.composite
def _signals(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for name in draw(st.lists(_keys, max_size=4, unique=True)):
        kind = draw(st.sampled_from(("enum", "boolean", "string", "number")))
        signal: dict[str, Any] = {"name": name, "type": kind}
        if kind == "enum":
            signal["values"] = draw(st.lists(_texts, min_size=1, max_size=3, unique=True))
        if draw(st.booleans()):
            signal |= {"required": draw(st.booleans()), "source": draw(st.sampled_from(("context", "scope")))}
        found.append(signal)
    return found


_values = {"boolean": st.booleans(), "string": _texts, "number": st.integers() | st.floats(-1e9, 1e9)}


@st.composite
def _condition(draw: st.DrawFn, signal: dict[str, Any]) -> dict[str, Any]:
    values = st.sampled_from(signal["values"]) if signal["type"] == "enum" else _values[signal["type"]]
    operator = draw(st.sampled_from(("==", "!=", "in")))
    value = draw(st.lists(values, min_size=1, max_size=3) if operator == "in" else values)
    return {"field": signal["name"], "operator": operator, "value": value}


@st.composite
def _domain(draw: st.DrawFn, name: str, organization: str) -> dict[str, Any]:
    tails = draw(
        st.lists(st.from_regex(r"[a-z0-9_-]{1,5}", fullmatch=True), min_size=1, max_size=3, unique=True)
    )
    scopes = [{"scope_id": f"{name}.{organization}.{tail}", "service": draw(_names)} for tail in tails]
    stages = draw(st.lists(st.sampled_from(_STAGES), max_size=2, unique=True))
    specs: list[dict[str, Any]] = [
        {
            "spec_id": f"{organization}.{name}.{stage}",
            "intent": draw(_names),
            "stage": stage,
            "allowed_verdicts": draw(st.lists(st.sampled_from(_VERDICTS), min_size=1, unique=True)),
            "signals": draw(_signals()),
        }
        for stage in stages
    ]
    policies = []
    for number, spec in enumerate(specs):
        chosen = [draw(_condition(signal)) for signal in spec["signals"]]
        policy = {"id": f"{number}", "spec_id": spec["spec_id"], "verdict": spec["allowed_verdicts"][0]}
        policies.append(
            {**policy, "scope_id": scopes[0]["scope_id"], "conditions": chosen, "name": draw(_names)}
        )
    return {
        "domain": name,
        "description": draw(_texts),
        "scopes": scopes,
        "specs": specs,
        "policies": policies,
    }


@st.composite
def whole_files(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The documents of a mandate.yaml without a mistake: up to two organizations."""
    found = []
    for organization in draw(st.sampled_from((("a",), ("a", "b")))):
        domains = draw(st.lists(st.sampled_from(("x", "y_", "9-z")), max_size=2, unique=True))
        head = {
            "name": f"Organization {organization}",
            "metadata": draw(st.dictionaries(_texts, _json, max_size=2)),
        }
        blocks = [draw(_domain(name, organization)) for name in domains]
        found.append({"mandate": 1, "organization": head, "domains": blocks})
    return found
