"""A page costs the same however deep it is: PostgreSQL's plans say so, for all versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import MIGRATIONS
from tests.servers import Databases
from tests.serving import migrate_with_psql

from mandate.controlplane.dialect import DIALECTS, SCHEMA_VERSION
from mandate.controlplane.store import NO_FILTERS
from mandate.postgres.connection import Session, connect
from mandate.postgres.embedded import EmbeddedServer

HISTORY = [
    """
    INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, domain_id)
    SELECT md5('s' || domain_id)::uuid, 77, '[]', organization_id, domain_id FROM mandate.domains
    """,
    """
    INSERT INTO mandate.decision_events
        (decision_id, organization_id, domain_id, intent, stage, actor, target, timestamp, created_at)
    SELECT md5('d' || n)::uuid, d.organization_id, d.domain_id, 'intent ' || n % 7, 'proposed', 'a', 't',
        timestamptz '2026-01-01' - n * interval '1 day', timestamptz '2026-01-01' + n * interval '3 seconds'
    FROM generate_series(1, 20000) n
    JOIN (SELECT *, row_number() OVER (ORDER BY name) - 1 AS at FROM mandate.domains) d ON d.at = n % 5
    """,
    """
    INSERT INTO mandate.verdict_events
        (verdict_id, decision_id, snapshot_id, organization_id, domain_id, verdict, timestamp)
    SELECT md5('v' || decision_id)::uuid, decision_id, s.snapshot_id, d.organization_id, d.domain_id, 'ALLOW',
        d.created_at
    FROM mandate.decision_events d
    JOIN mandate.policy_snapshots s ON s.domain_id = d.domain_id AND s.version = 77
    """,
    """
    INSERT INTO mandate.audit_timeline_entries
        (entry_id, decision_id, intent, stage, actor, target, summary, details, severity, event_source,
        authority_level, organization_id, domain_id, timestamp)
    SELECT md5('t' || decision_id)::uuid, decision_id, intent, stage, actor, target, 'Verdict ALLOW',
        '{"type": "VERDICT_ISSUED"}', 'info', 'system', 'system', organization_id, domain_id, created_at
    FROM mandate.decision_events
    """,
]
# Tables of so few rows that they are read whole.
FEW = ("domains", "organizations")
DEEP = {"after_1": "2026-01-01 00:30:00+00", "after_2": "00000000-0000-0000-0000-000000000000"}


@pytest.fixture(
    scope="module", params=[(18, 7), (18, 8), (18, 9), (16, 7), (16, 8)], ids=lambda p: f"pg{p[0]}-v{p[1]}"
)
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    major, version = request.param
    server: EmbeddedServer = request.getfixturevalue({18: "postgres", 16: "postgres16"}[major])
    databases = Databases(server, MIGRATIONS)
    target = databases.create("v7")
    with connect(target) as loading:
        for statement in HISTORY:
            loading.execute(statement.encode())
    if version >= 8:
        migrate_with_psql(target)
    if version == 9:
        migrate_with_psql(target, MIGRATIONS / "009_tenant_keys.sql")
    with connect(target, settings={"plan_cache_mode": "force_custom_plan", "TimeZone": "UTC"}) as session:
        session.execute(b"VACUUM ANALYZE")
        yield session
    databases.drop(target.database)


def plan(session: Session, statement: str, **given: Any) -> dict[str, Any]:
    text = DIALECTS[session.value(SCHEMA_VERSION)].statements[statement]
    explain = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + text
    found: dict[str, Any] = session.value(explain, {**NO_FILTERS, "limit": 51, **given})[0]["Plan"]
    return found


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


# The index of a list's order; version 9 has one for each organization's own order of decisions.
ORDERS = {
    "decisions": ("decision_events", {"idx_decision_events_created_at", "idx_decision_events_order"}),
    "verdicts": (
        "verdict_events",
        {"idx_verdict_events_timestamp", "idx_verdict_events_organization_timestamp"},
    ),
}


@pytest.mark.parametrize("statement", ORDERS)
def test_pages_are_read_from_the_index_of_their_order(session: Session, statement: str) -> None:
    table, indexes = ORDERS[statement]
    organization = session.value("SELECT organization_id::text FROM mandate.domains LIMIT 1")
    for given in ({}, {"organization_id": organization}, {"principal_organization": organization}):
        first, deep = plan(session, statement, **given), plan(session, statement, **given, **DEEP)
        for found in (first, deep):
            assert found["Actual Rows"] == 51
            reading = [node for node in nodes(found) if node.get("Relation Name") == table]
            assert any(node.get("Index Name") in indexes for node in reading)
            assert not [node for node in reading if node["Node Type"] == "Seq Scan"]
            # No more is sorted, or read, than a page of each organization.
            assert max(node["Actual Rows"] * node["Actual Loops"] for node in nodes(found)) <= 51 * 8
        assert buffers(deep) <= 1.5 * buffers(first)


def test_a_time_in_the_middle_is_found_in_the_index_of_the_order(session: Session) -> None:
    first = plan(session, "decisions")
    middle = plan(session, "decisions", since="2026-01-01 00:10:00+00", until="2026-01-01 00:30:00+00")
    assert middle["Actual Rows"] == 51
    reading = [node for node in nodes(middle) if node.get("Relation Name") == "decision_events"]
    assert sum(node.get("Rows Removed by Filter", 0) for node in reading) == 0
    assert buffers(middle) <= 1.5 * buffers(first)


def test_a_filter_that_is_not_given_costs_nothing(session: Session) -> None:
    found = plan(session, "decisions")
    reading = [node for node in nodes(found) if node.get("Relation Name") == "decision_events"]
    assert reading
    assert not [node for node in reading if "Filter" in node]
    assert "IS NULL" not in str(found)


def test_a_verdict_s_decision_is_not_read_unless_asked_about(session: Session) -> None:
    alone = {node.get("Relation Name") for node in nodes(plan(session, "verdicts"))}
    asked = {node.get("Relation Name") for node in nodes(plan(session, "verdicts", intent="intent 3"))}
    assert "decision_events" not in alone
    assert "decision_events" in asked


def test_one_decision_is_found_by_its_key(session: Session) -> None:
    some = session.value(b"SELECT decision_id::text FROM mandate.decision_events LIMIT 1")
    for statement, limit in (("decision", None), ("verdicts", 1), ("timeline", 51)):
        found = plan(session, statement, decision_id=some, limit=limit)
        assert not [n for n in nodes(found) if n["Node Type"] == "Seq Scan" and n["Relation Name"] not in FEW]
        assert buffers(found) < 60


YOUNG = "10000001-0000-4000-8000-000000000001"
EVENTS = ("decision_events", "verdict_events", "audit_timeline_entries")
FILTERS: list[dict[str, Any]] = [
    {},
    {"verdict": "ALLOW"},
    {"intent": "intent 3"},
    {"domain_keys": [YOUNG], "domain_organizations": [YOUNG]},
    {"scope_keys": [YOUNG], "scope_organizations": [YOUNG]},
]
# By version: the columns of a domain and of the time of receipt.
COLUMNS = {
    7: ("domain_id", "name, domain_id", "created_at"),
    8: ("domain", "domain", "created_at"),
    9: ("domain", "domain", "received_at"),
}
GROWN = """
    INSERT INTO mandate.organizations (organization_id, name) VALUES ('{young}', 'Young');
    INSERT INTO mandate.domains (organization_id, {named}) VALUES ('{young}', {names});
    INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, {domain})
    VALUES ('{young}', 1, '[]', '{young}', '{young}');
    INSERT INTO mandate.decision_events
        (decision_id, organization_id, {domain}, intent, stage, actor, target, timestamp, {received})
    SELECT md5('y' || n)::uuid, '{young}', '{young}', 'intent ' || n % 7, 'proposed', 'a', 't', now(),
        timestamptz '2026-01-02' + n * interval '3 seconds'
    FROM generate_series(1, 3000) n;
    INSERT INTO mandate.verdict_events
        (verdict_id, decision_id, snapshot_id, organization_id, {domain}, verdict, timestamp)
    SELECT md5('v' || decision_id)::uuid, decision_id, '{young}', '{young}', '{young}', 'ALLOW', {received}
    FROM mandate.decision_events WHERE organization_id = '{young}';
    INSERT INTO mandate.audit_timeline_entries
        (entry_id, decision_id, intent, stage, actor, target, summary, details, severity, event_source,
        authority_level, organization_id, {domain}, timestamp)
    SELECT md5('t' || decision_id)::uuid, decision_id, intent, stage, actor, target, 'Verdict ALLOW',
        '{{"type": "VERDICT_ISSUED"}}', 'info', 'system', 'system', organization_id, {domain}, {received}
    FROM mandate.decision_events WHERE organization_id = '{young}'
"""


def test_an_organization_that_no_statistics_know_yet_costs_no_more(session: Session) -> None:
    """The planner takes its rows for one, for which any index of the organization would do: what is joined
    has to be looked up by its id all the same, or each row of a page reads all of them."""
    domain, named, received = COLUMNS[session.value(SCHEMA_VERSION)]
    names = ", ".join([f"'{YOUNG}'"] * len(named.split(", ")))
    session.execute(b"BEGIN")
    try:
        for table in EVENTS:
            session.execute(f"ALTER TABLE mandate.{table} SET (autovacuum_enabled = off)".encode())
        text = GROWN.format(young=YOUNG, domain=domain, named=named, names=names, received=received)
        for part in text.split(";"):
            session.execute(part.encode())
        some = session.value("SELECT md5('y7')::uuid::text")
        # Each row once, where there is no index in the order that is asked for; not each row for each.
        asked = [(statement, given, 60_000) for statement in ORDERS for given in FILTERS]
        # And verdicts of a page only, where it is not they that are filtered by.
        asked += [
            ("decisions", given, 10_000) for given in FILTERS if not {"verdict", "scope_keys"} & {*given}
        ]
        asked += [(name, {"decision_id": some}, 100) for name in ("decision", "verdicts", "timeline")]
        # What would read 450 million pages is cut off.
        session.execute(b"SET LOCAL statement_timeout = '10s'")
        for statement, given, limit in asked:
            for whose in ({"principal_organization": YOUNG}, {"organization_id": YOUNG}):
                found = plan(session, statement, **given, **whose)
                assert buffers(found) < limit, (statement, given, whose)
    finally:
        session.execute(b"ROLLBACK")
