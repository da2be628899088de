"""The diff as a pure function: whatever is applied, rendered and applied again changes nothing."""

from __future__ import annotations

import json
from random import Random
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest
import yaml
from hypothesis import given
from tests.governing import WHOLE, after, as_yaml, tables, whole_files

from mandate.controlplane.governance import documents, planning, render, review, shapes, source
from mandate.controlplane.governance.state import State


def plan(text: str, state: State) -> planning.Plan:
    return planning.plan(
        documents.parse(source.read_yaml(text.encode(), "m.yaml")),
        state,
        lambda what: str(uuid5(NAMESPACE_OID, what)),
    )


@given(whole_files())
def test_what_is_rendered_and_applied_again_changes_nothing(files: list[dict[str, Any]]) -> None:
    first = plan(as_yaml(files), State())
    assert (first.defects, first.conflicts) == ((), ())
    state = after(State(), first)
    text = render.text(state)
    again = plan(text, state)
    assert (again.defects, again.conflicts, again.creations) == ((), (), ())
    assert render.text(after(state, again)) == text
    assert review.findings(state) == ()
    # And the same into an empty database gives the same contents.
    copy = plan(text, State())
    assert (copy.defects, copy.conflicts) == ((), ())
    assert render.text(after(State(), copy)) == text


@given(whole_files(), whole_files())
def test_a_diff_depends_on_nothing_but_the_file_and_the_contents(
    old: list[dict[str, Any]], new: list[dict[str, Any]]
) -> None:
    state = after(State(), plan(as_yaml(old), State()))
    text = as_yaml(new)
    shuffled = [list(rows) for rows in tables(state)]
    for rows in shuffled:
        Random(4).shuffle(rows)
    first, second = plan(text, state), plan(text, State(*map(tuple, shuffled)))
    assert [change.as_dict() for change in first.changes] == [change.as_dict() for change in second.changes]
    assert {*first.defects, *first.conflicts} == {*second.defects, *second.conflicts}


def test_the_json_schema_has_every_key_of_the_whole_file() -> None:
    schema = shapes.json_schema()
    assert schema["title"] == "mandate.yaml"
    assert schema["additionalProperties"] is False
    defined = schema["$defs"]
    (document,) = yaml.safe_load_all(WHOLE)
    (domain, _) = document["domains"]
    kinds = {
        "DomainBlock": [domain],
        "Scope": domain["scopes"],
        "Spec": domain["specs"],
        "Signal": domain["specs"][0]["signals"],
        "Policy": domain["policies"],
        "Condition": domain["policies"][0]["conditions"],
    }
    for kind, entries in kinds.items():
        assert defined[kind]["additionalProperties"] is False
        for entry in entries:
            assert entry.keys() <= defined[kind]["properties"].keys()
            assert set(defined[kind].get("required", ())) <= entry.keys()
    json.dumps(schema)


@pytest.mark.parametrize("broken", ["no list", [1], [{"id": 7}], [{"id": ["x"], "conditions": "y"}]])
def test_a_stored_snapshot_that_cannot_be_meant_is_named(broken: Any) -> None:
    state = after(State(), plan(WHOLE, State()))
    rows = tuple(
        {**row, "policies": broken if isinstance(broken, list) else [broken]} for row in state.snapshots
    )
    damaged = State(state.organizations, state.domains, state.scopes, state.specs, rows)
    found = review.findings(damaged)
    assert found
    assert found[0].where.startswith("Acme, domain billing, policy ")
    # A file that has it right is a new version, and says what it replaces.
    assert [change.name for change in plan(WHOLE, damaged).creations] == ["snapshot 2"]


def test_what_is_wrong_in_a_database_is_named_as_people_know_it() -> None:
    state = after(State(), plan(WHOLE, State()))

    def found(**changes: Any) -> list[tuple[str | None, str, str]]:
        specs = ({**state.specs[0], **changes},)
        damaged = State(state.organizations, state.domains, state.scopes, specs, state.snapshots)
        return [(each.domain, each.where, each.message) for each in review.findings(damaged)]

    signals = [signal for signal in state.specs[0]["signals"] if signal["name"] != "channel"]
    policy = "Acme, domain billing, policy block-unverified"
    said = "spec billing.refund declares no signal channel"
    assert found(signals=signals) == [("billing", f"{policy}, condition 2, field", said)]
    said = "spec billing.refund does not allow BLOCK: ALLOW, PAUSE"
    assert found(allowed_verdicts=["ALLOW", "PAUSE"]) == [("billing", f"{policy}, verdict", said)]
    spec = "Acme, domain billing, spec billing.refund version 1"
    said = "there is no key 'mode' here"
    assert found(enforcement={"mode": "x"}) == [("billing", f"{spec}, enforcement, mode", said)]
    said = "there is no active or draft spec billing.refund in domain billing"
    assert [message for _, _, message in found(status="deprecated")] == [said, said]
