"""Whatever the service accepts is judged by a replay as the service judged it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import MIGRATIONS
from tests.posting import ORGANIZATION, decision, post
from tests.servers import Databases
from tests.serving import serving
from tests.sqlfiles import prepare

from mandate.controlplane.replay import Request, replay
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer

SIGNALS: list[dict[str, Any]] = [
    {"name": "amount", "type": "number"},
    {"name": "sure", "type": "boolean"},
    {"name": "kind", "type": "enum", "values": ["a", "b", 7]},
    {"name": "note", "type": "string"},
    {"name": "environment", "type": "string", "source": "scope"},
    {"name": "hour", "type": "number", "source": "timestamp"},
    {"name": "weekday", "type": "string", "source": "timestamp"},
]


def policy(number: int, scope: str, verdict: str, *conditions: tuple[str, str, Any]) -> dict[str, Any]:
    named = [dict(zip(("field", "operator", "value"), each, strict=True)) for each in conditions]
    return {
        "id": f"p{number}",
        "spec_id": "closed" if scope == "risk.gone" else "risk",
        "scope_id": scope,
        "verdict": verdict,
        "conditions": named,
    }


POLICIES = [
    policy(1, "risk.default", "PAUSE", ("amount", ">", 100)),
    policy(2, "risk.default", "BLOCK", ("amount", "==", 10**23)),
    policy(3, "risk.prod", "BLOCK", ("sure", "==", False), ("environment", "==", "prod")),
    policy(4, "risk.pay", "ALLOW", ("kind", "in", ["a", 7])),
    policy(5, "risk.default", "PAUSE", ("kind", "!=", "a"), ("amount", ">=", 2**53 + 1)),
    policy(6, "risk.default", "PAUSE", ("hour", ">=", 22), ("weekday", "!=", "sunday")),
    policy(7, "risk.default", "BLOCK", ("note", "==", "urgent")),
    policy(8, "risk.gone", "OBSERVE"),
]
# What cannot be evaluated fails closed: an unknown scope, policies and a spec that cannot be read.
WORLD = f"""
INSERT INTO mandate.domains (organization_id, domain)
    VALUES ('{ORGANIZATION}', 'risk'), ('{ORGANIZATION}', 'torn');
INSERT INTO mandate.scopes (scope_id, domain, organization_id, environment, service) VALUES
    ('risk.default', 'risk', '{ORGANIZATION}', NULL, NULL),
    ('risk.prod', 'risk', '{ORGANIZATION}', 'prod', ''),
    ('risk.pay', 'risk', '{ORGANIZATION}', NULL, 'payments');
INSERT INTO mandate.mandate_specs (spec_id, version, organization_id, domain, intent, stage, allowed_verdicts,
    signals, enforcement, status)
SELECT id, 1, '{ORGANIZATION}', domain, id, 'proposed', allowed::mandate.verdict[], signals::jsonb,
    enforcement::jsonb, 'active'
FROM (VALUES
    ('risk', 'risk', '{{OBSERVE,ALLOW,PAUSE,BLOCK}}', '{json.dumps(SIGNALS)}',
        '{{"default_verdict": "ALLOW"}}'),
    ('closed', 'risk', '{{OBSERVE,PAUSE}}', '[]', '{{}}'),
    ('unread', 'risk', '{{OBSERVE,PAUSE}}', '[{{"name": "x", "type": "nothing"}}]', '{{}}'),
    ('torn', 'torn', '{{OBSERVE,PAUSE}}', '[{{"name": "amount", "type": "number", "required": true}}]',
        '{{}}')
) AS v (id, domain, allowed, signals, enforcement);
INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, domain) VALUES
    (gen_random_uuid(), 1, '{json.dumps(POLICIES)}', '{ORGANIZATION}', 'risk'),
    (gen_random_uuid(), 1, '[{{"id": 1}}]', '{ORGANIZATION}', 'torn');
"""
PLANNER = {"environment": "prod", "service": "dispatch", "agent": "Route Planner", "system": "WMS"}
NUMBERS = (
    *(1, 100, 100.5, 101, 1e2, 1e23, 10**23, 2**53, 2**53 + 1, 2.0**53, 1e-7, -0.0, 0, 123456789.125e3),
    *(1e300, -(10**98), True, "101", None),
    *("#100.00000000000000001", "#99.99999999999999999", "#57082709261972890.0"),  # see `written`
)
TEXTS = (
    *("amount: 740", "Amount = 100000000000000000000000", "amount: 1\nsure: no", "kind is 7", "KIND: b"),
    *(
        "note: urgent\nnote: later",
        "note: \u2028 \\N \t",
        'kind: a, kind: b; amount: 99. amount: 101 "',
        "\u00e9",
    ),
    "\n".join(f"amount: {n} kind: a\nkind: b\nkind: 7 sure: yes sure: no note: {n}" for n in range(40)),
)


def written(body: dict[str, Any]) -> bytes:
    """As JSON, with numbers that no float is where a text says #number."""
    return re.sub(r'"#([0-9.]+)"', r"\1", json.dumps(body, ensure_ascii=False)).encode()


def bodies(seed: int, many: int) -> Iterator[bytes]:
    """Decisions of every sort as JSON; the same for a seed."""
    random = Random(seed)

    def some(chance: float, value: Any) -> Any:
        return value if random.random() < chance else None

    for _ in range(many):
        context: dict[str, Any] = {
            "amount": some(0.6, random.choice(NUMBERS)),
            "sure": some(0.5, random.choice((True, False, "no", None))),
            "kind": some(0.5, random.choice(("a", "b", 7, 7.0, True, "c", ["a"]))),
            "note": some(0.3, random.choice(("urgent", "", "\u2028\\\\N"))),
            "environment": some(0.2, "prod"),
            "undeclared": some(0.2, {"amount": 1e6, "deep": [[None, "\\"]]}),
        }
        scope = {
            "environment": some(0.6, random.choice(("prod", "test", "", 7))),
            "service": some(0.6, random.choice(("payments", "other"))),
            "amount": some(0.2, 1000),
        }
        intent = random.choice(("risk", "risk", "closed", "unread", "torn"))
        hour, tenth = random.randint(20, 23), random.randint(0, 9)
        body = decision(
            decision_id=str(UUID(int=random.getrandbits(128), version=4)),
            domain="torn" if intent == "torn" else "risk",
            intent=intent,
            stage="proposed",
            context=random.choice((context, {k: v for k, v in context.items() if v is not None})),
            scope=scope,
            timestamp=some(0.8, f"2026-0{random.randint(1, 9)}-11T{hour}:30:00.{tenth}+02:00"),
            unstructured_context=some(0.5, random.choice(TEXTS)),
        )
        if random.random() < 0.1:
            body.pop(random.choice(("organization_id", "domain", "intent", "stage")))
        yield written(body)


def samples(seed: int, many: int) -> Iterator[bytes]:
    """Decisions for a sample spec of 006, which version 7 has too."""
    random = Random(seed)
    for _ in range(many):
        context = {"delay_hours": random.choice(NUMBERS), "carrier": random.choice(("road", None, None))}
        body = decision(
            domain="logistics",
            intent="reroute_shipment",
            context={name: value for name, value in context.items() if value is not None},
            scope=PLANNER,
            unstructured_context=random.choice((None, "carrier: air", "Carrier is rail", "delay hours: 3")),
        )
        yield written(body)


@pytest.mark.parametrize("version", [7, 9])
def test_what_the_service_accepts_is_the_same_again(
    postgres: EmbeddedServer, tmp_path: Path, version: int
) -> None:
    databases = Databases(postgres, MIGRATIONS)
    target = databases.create(f"v{version}")
    if version == 9:
        prepare(target, WORLD)
    posted = list(bodies(7, 600) if version == 9 else samples(7, 120))
    with serving(target, tmp_path) as service:
        answer = post(
            service, b"\n".join(posted), "/api/decisions:batch", {"Content-Type": "application/x-ndjson"}
        )
        answers = [json.loads(line) for line in answer.body.splitlines()]
    assert [each for each in answers if each["status"] != 201] == []
    assert len(answers) == len(posted)
    with replay(target, Request()) as report:
        assert list(report.lines()) == []
        assert report.totals.findings == {"same": len(posted)}
        assert len(report.totals.matrix) == (4 if version == 9 else 3)
    if version == 9:
        a_scope_that_came_later(target)
        the_same_policies_as_candidate(target, tmp_path / "candidate.json")
    raised, populated = without_texts(target)
    with replay(target, Request()) as report:
        assert report.totals.findings["different"] == raised > 5
        assert populated > raised
    databases.drop(target.database)


def a_scope_that_came_later(target: Target) -> None:
    """What failed closed for want of a scope is judged again without it, unless it was there already."""
    with connect(target) as session:
        session.execute(
            "INSERT INTO mandate.scopes (scope_id, domain, organization_id) VALUES ('risk.gone', 'risk', %s)",
            (ORGANIZATION,),
        )
    with replay(target, Request()) as report:
        assert list(report.lines()) == []
        assert report.all_the_same
    with connect(target, settings={"session_replication_role": "replica"}) as session:
        scope = "UPDATE mandate.scopes SET created_at = %s WHERE scope_id = 'risk.gone'"
        session.execute(scope, ("-infinity",))
        with replay(target, Request()) as report:
            assert {line["intent"] for line in report.lines()} == {"closed"}
        session.execute(scope, ("infinity",))


def the_same_policies_as_candidate(target: Target, path: Path) -> None:
    path.write_text(json.dumps([each for each in POLICIES if each["spec_id"] == "risk"]), "utf-8")
    with replay(target, Request(path, domain="risk", intent="risk")) as report:
        assert set(report.totals.findings) == {"same"}
        assert report.totals.matrix["PAUSE", "PAUSE"] > 10
        assert report.totals.matrix["OBSERVE", "OBSERVE"] > 0  # attribution that is not complete


def without_texts(target: Target) -> tuple[int, int]:
    """Take the texts out of the record; how many verdicts a text decided, and how many decisions had signals
    from one."""
    with connect(target, settings={"session_replication_role": "replica"}) as session:
        populated = session.value(
            "SELECT count(*) FROM mandate.audit_timeline_entries WHERE details ? 'populated'"
        )
        session.execute(
            "UPDATE mandate.audit_timeline_entries SET details = details - 'unstructured_context'"
        )
    with replay(target, Request()) as report:
        return sum(1 for _ in report.lines()), populated
