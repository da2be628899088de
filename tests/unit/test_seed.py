"""The generated history, without a database."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from itertools import pairwise
from typing import Any, get_args

import pytest

from mandate.controlplane.evaluator import Evaluator
from mandate.controlplane.model import (
    Decision,
    Operator,
    Scope,
    Stage,
    Verdict,
    parse_policies,
    parse_spec,
)
from mandate.controlplane.seed import History, Parameters, parse_until, plan, reference
from mandate.controlplane.seed.dialect import DECISIONS, TIMELINE, VERDICTS, Version
from mandate.controlplane.seed.identity import readable, slug
from mandate.controlplane.seed.parameters import MAX_DECISIONS
from mandate.errors import UsageError

SMALL = Parameters(3000)
Line = dict[str, str]


@cache
def texts(parameters: Parameters, version: Version) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for block in plan(parameters).blocks(version):
        for table, data in block.data.items():
            found.setdefault(table, []).extend(data.decode().splitlines())
    return found


def lines(history: History, table: str, version: Version = 7) -> Iterator[Line]:
    names = history.dialect(version).columns(table)
    for line in texts(history.parameters, version)[table]:
        yield dict(zip(names, line.split("\t"), strict=True))


def digest(history: History, version: Version = 7) -> str:
    found = sha256(
        json.dumps(list(reference.tables(history.dialect(version), unselective=True)), default=str).encode()
    )
    for block in history.blocks(version):
        for table in (DECISIONS, VERDICTS, TIMELINE):
            found.update(block.data[table])
    return found.hexdigest()


@pytest.fixture(scope="module")
def history() -> History:
    return plan(SMALL)


def test_equal_parameters_give_equal_bytes_in_any_process(history: History) -> None:
    program = (
        "from tests.unit.test_seed import SMALL, digest, plan\n"
        "print(digest(plan(SMALL), 7), digest(plan(SMALL), 8))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "TZ": "Asia/Kolkata"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == [digest(history, 7), digest(history, 8)]


@pytest.mark.parametrize(
    "other",
    [
        Parameters(3001), Parameters(3000, domains=11), Parameters(3000, skew=0.5), Parameters(3000, seed=2),
        Parameters(3000, days=90), Parameters(3000, until=datetime(2025, 6, 1, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_other_parameters_give_a_disjoint_history(history: History, other: Parameters) -> None:
    def keys(of: History) -> set[str]:
        world = of.world
        found = {line["decision_id"] for line in lines(of, DECISIONS)}
        found |= {organization.organization_id for organization in world.organizations}
        return found | {domain.domain_id for domain in world.domains} | set(world.readable)

    assert not keys(history) & keys(plan(other))


def test_identifiers_are_unique_and_refer_to_each_other(history: History) -> None:
    decisions = {line["decision_id"]: line for line in lines(history, DECISIONS)}
    assert len(decisions) == 3000
    verdicts = list(lines(history, VERDICTS))
    assert {line["decision_id"] for line in verdicts} == set(decisions)
    timeline = list(lines(history, TIMELINE))
    everything = [*decisions, *(v["verdict_id"] for v in verdicts), *(t["entry_id"] for t in timeline)]
    assert len(set(everything)) == len(everything) == 6000 + len(timeline)
    shared = ("organization_id", "domain_id", "spec_id", "spec_version")
    for line in [*verdicts, *timeline]:
        assert [line[name] for name in shared] == [decisions[line["decision_id"]][name] for name in shared]
    for line in timeline:
        decision = decisions[line["decision_id"]]
        assert [line[n] for n in ("intent", "target", "actor")] == [
            decision[n] for n in ("intent", "target", "actor")
        ]


def test_every_value_of_every_enumeration_occurs(history: History) -> None:
    decisions, verdicts, timeline = (list(lines(history, table)) for table in (DECISIONS, VERDICTS, TIMELINE))
    assert {line["stage"] for line in decisions} == set(Stage)
    assert {line["verdict"] for line in verdicts} == set(Verdict)
    for column in ("event_source", "authority_level"):
        assert {line[column] for line in timeline} == {"system", "agent", "human"}
    assert {line["severity"] for line in timeline} == {"info", "warning", "critical"}
    assert {line["stage"] for line in timeline} == set(Stage)
    kinds = Counter(json.loads(line["details"])["type"] for line in timeline)
    assert kinds["DECISION_RECORDED"] == kinds["VERDICT_ISSUED"] == 3000
    assert 0 < kinds["OUTCOME"] < 1000
    intents = {(line["domain_id"], line["intent"], line["stage"]) for line in decisions}
    assert len(intents) > 0.8 * 12 * 9
    used = {c.operator for d in history.world.domains for s in d.snapshots
            for p in parse_policies(list(s.policies)) for c in p.conditions}  # fmt: skip
    assert used == set(get_args(Operator))


def test_replaying_what_is_stored_gives_every_verdict_again(history: History) -> None:
    """From the rows alone, of either version, with nothing of the generator's own state."""
    for version in get_args(Version):
        dialect = history.dialect(version)
        rows = dict(reference.tables(dialect, unselective=False))
        domain_key = dialect.domain_column
        evaluators: dict[tuple[str, ...], Evaluator] = {}
        verdicts = {line["decision_id"]: line for line in lines(history, VERDICTS, version)}
        for line in lines(history, DECISIONS, version):
            given = verdicts[line["decision_id"]]
            key = (
                line["organization_id"],
                line[domain_key],
                line["spec_id"],
                line["spec_version"],
                given["snapshot_id"],
            )
            if key not in evaluators:
                evaluators[key] = stored_evaluator(rows, domain_key, key)
            decision = Decision(
                line["organization_id"], "", line["intent"], Stage(line["stage"]),
                json.loads(line["context"]), json.loads(line["scope"]),
            )  # fmt: skip
            found = evaluators[key].evaluate(decision)
            ids = [item.strip('"') for item in given["matched_policy_ids"][1:-1].split(",") if item]
            assert (found.verdict, list(found.matched_policy_ids)) == (given["verdict"], ids)
            assert found.scope is not None
            assert (found.scope.scope_id, found.scope.owning_team) == (
                given["scope_id"],
                given["owning_team"],
            )
            assert not evaluators[key].defects


def stored_evaluator(
    rows: dict[str, list[dict[str, Any]]], domain_key: str, key: tuple[str, ...]
) -> Evaluator:
    organization, domain, spec_id, spec_version, snapshot_id = key
    spec = next(
        s for s in rows["mandate_specs"] if (s["spec_id"], str(s["version"])) == (spec_id, spec_version)
    )
    snapshot = next(s for s in rows["policy_snapshots"] if s["snapshot_id"] == snapshot_id)
    assert (snapshot["organization_id"], snapshot[domain_key]) == (organization, domain)
    decoded = spec | {name: json.loads(spec[name]) for name in ("signals", "enforcement")}
    scopes = [
        Scope(s["scope_id"], s["environment"], s["service"], s["agent"], s["scope_system"], s["tenant"],
              s["owning_team"])
        for s in rows["scopes"]
        if (s["organization_id"], s[domain_key]) == (organization, domain)
    ]  # fmt: skip
    return Evaluator(parse_spec(decoded), parse_policies(json.loads(snapshot["policies"])), scopes)


def test_the_snapshot_and_spec_are_those_in_force(history: History) -> None:
    snapshots = {s.snapshot_id: s for domain in history.world.domains for s in domain.snapshots}
    specs = {(s.spec.spec_id, str(s.spec.version)): s for d in history.world.domains for s in d.specs}
    received = {line["decision_id"]: stamp(line["timestamp"]) for line in lines(history, DECISIONS)}
    successors = {
        one.snapshot_id: two.created_at for d in history.world.domains for one, two in pairwise(d.snapshots)
    }
    for line in lines(history, VERDICTS):
        moment = received[line["decision_id"]]
        assert snapshots[line["snapshot_id"]].created_at <= moment
        assert moment < successors.get(line["snapshot_id"], history.parameters.until)
        assert specs[line["spec_id"], line["spec_version"]].created_at <= moment
    used = {line["snapshot_id"] for line in lines(history, VERDICTS)}
    assert {snapshots[item].version for item in used} == {1, 2, 3, 4}
    assert {status.status for status in specs.values()} == {"active", "deprecated", "draft"}


def stamp(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("days", [1, 30, 3650])
def test_time_runs_from_since_to_until(days: int) -> None:
    history = plan(Parameters(2000, days=days))
    decisions = [stamp(line["timestamp"]) for line in lines(history, DECISIONS)]
    assert decisions == sorted(decisions)
    assert decisions[0] >= history.parameters.since
    last = max(stamp(line["created_at"]) for line in lines(history, TIMELINE))
    assert last < history.parameters.until
    assert (decisions[-1] - decisions[0]).total_seconds() > 0.7 * days * 86_400
    began = {line["decision_id"]: stamp(line["timestamp"]) for line in lines(history, DECISIONS)}
    assert all(stamp(line["timestamp"]) >= began[line["decision_id"]] for line in lines(history, TIMELINE))


def test_organizations_and_domains() -> None:
    world = plan(SMALL).world
    assert len(world.organizations) == 3
    names = Counter(domain.name for domain in world.domains)
    assert names["finance"] == 2
    assert all(re.fullmatch("[a-z0-9_-]+", name) for name in names)
    assert world.domains[0].name == "finance"
    owned = [(domain.organization.organization_id, domain.name) for domain in world.domains]
    assert len(set(owned)) == len(owned) == 12


@pytest.mark.parametrize("domains", [1, 2, 3, 5, 29, 30, 31, 100, 500])
def test_any_number_of_domains(domains: int) -> None:
    world = plan(Parameters(10, domains=domains)).world
    owned = {(domain.organization.organization_id, domain.name) for domain in world.domains}
    assert len(owned) == domains
    assert len({organization.name for organization in world.organizations}) == len(world.organizations)
    specs = [(s.spec.spec_id, s.spec.version) for domain in world.domains for s in domain.specs]
    assert len(set(specs)) == len(specs)
    active = [s.spec.spec_id for domain in world.domains for s in domain.specs if s.status == "active"]
    assert len(set(active)) == len(active)
    selectors = [(d.name, *scope.selectors) for d in world.domains for scope in d.scopes]
    assert len(set(selectors)) == len(selectors)
    assert len(set(world.readable.values())) == len(world.readable)
    assert sum(domain.unselective_scope is not None for domain in world.domains) <= 1


def test_scopes_worth_migrating() -> None:
    world = plan(SMALL).world
    colliding = [text for text in world.readable.values() if re.search("-[0-9a-f]{8}$", text)]
    assert len(colliding) == 2
    assert len({text[:-9] for text in colliding}) == 1
    assert sum(text.endswith(".default") for text in world.readable.values()) == 1
    assert any(scope.agent and scope.agent != slug(scope.agent) for d in world.domains for scope in d.scopes)


def test_readable_ids_when_a_suffix_meets_another_scope() -> None:
    one, two = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
    three = "cccccccc-0000-4000-8000-000000000003"
    found = readable(
        {
            one: ("hr", Scope(one, service="A B")),
            two: ("hr", Scope(two, service="a-b")),
            three: ("hr", Scope(three, service="a-b-aaaaaaaa")),
        }
    )
    assert found == {
        one: f"hr.a-b-{one.replace('-', '')}",
        two: "hr.a-b-bbbbbbbb",
        three: "hr.a-b-aaaaaaaa",
    }


@pytest.mark.parametrize(("skew", "low", "high"), [(0, 0.06, 0.11), (1, 0.28, 0.37), (10, 0.99, 1)])
def test_skew(skew: float, low: float, high: float) -> None:
    history = plan(Parameters(4000, skew=skew))
    counts = Counter(line["domain_id"] for line in lines(history, DECISIONS))
    first = counts[history.world.domains[0].domain_id] / 4000
    assert low <= first <= high


def test_one_decision_is_finances() -> None:
    history = plan(Parameters(1, domains=500, skew=0))
    (line,) = lines(history, DECISIONS)
    assert line["domain_id"] == history.world.domains[0].domain_id
    assert history.world.domains[0].name == "finance"


@pytest.mark.parametrize(
    "changes",
    [
        {"decisions": 0}, {"decisions": -1}, {"decisions": MAX_DECISIONS + 1}, {"domains": 0},
        {"domains": 501},
        {"skew": -0.1}, {"skew": float("nan")}, {"skew": float("inf")}, {"skew": 11}, {"seed": 2**64},
        {"days": 0}, {"days": 10**9}, {"until": datetime(1, 1, 1, tzinfo=UTC)},
        {"until": datetime(2026, 1, 1)},
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_meant(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--"):
        Parameters(**{"decisions": 10, **changes})


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "9" * 500])
def test_until_that_is_no_date(text: str) -> None:
    with pytest.raises(UsageError, match="--until"):
        parse_until(text)


def test_until_without_a_zone_is_utc() -> None:
    assert parse_until("2026-02-03") == datetime(2026, 2, 3, tzinfo=UTC)
    same = (Parameters(5, until=parse_until(text)) for text in ("2026-02-03T02:00:00+02:00", "2026-02-03"))
    assert len({parameters.key for parameters in same}) == 1
