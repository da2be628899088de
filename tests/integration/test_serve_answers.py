"""What `mandate serve` answers, on both versions of the schema and on PostgreSQL 18 and 16."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import MIGRATIONS
from tests.servers import Databases
from tests.serving import DECISION, VERDICT, Service, migrate_with_psql, serving

from mandate.controlplane.seed import Parameters, load
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.postgres.embedded import EmbeddedServer

NOBODY = "99999999-9999-4999-8999-999999999999"
COUNT = 400

# Evidence with digits that no float has, and times that Python has no word for. Version 7.
ODD = """
INSERT INTO mandate.decision_events
    (decision_id, organization_id, domain_id, intent, stage, actor, target, context, timestamp)
SELECT uuid::uuid, d.organization_id, d.domain_id, 'odd <script> ünï', 'executed', 'O''Brien "x" \\', '%s',
    context, at
FROM (SELECT * FROM mandate.domains WHERE name = 'finance' ORDER BY domain_id LIMIT 1) d, (VALUES
    ('0dd00001-0000-4000-8000-000000000001', jsonb '{"n": 12345678901234567890.1234567890}',
        timestamptz 'infinity'),
    ('0dd00002-0000-4000-8000-000000000002', '{}', '-infinity'),
    ('0dd00003-0000-4000-8000-000000000003', '{}', '0044-03-15 00:00:00+00 BC'),
    ('0dd00004-0000-4000-8000-000000000004', '{}', '12026-01-01 00:00:00+00')
) odd (uuid, context, at)
"""


class Record:
    """A served database, with what is in it read by SQL of the test's own."""

    def __init__(self, service: Service, target: Target, version: int, identities: dict[str, str]) -> None:
        self.service, self.target, self.version = service, target, version
        self.identities = identities
        self.decisions = service.rows("/api/decisions?limit=500")
        self.verdicts = service.rows("/api/verdicts?limit=500")

    def query(self, query: str) -> list[dict[str, Any]]:
        with connect(self.target) as session:
            return session.rows(query.encode())


@pytest.fixture(
    scope="module", params=[(18, 7), (18, 8), (18, 9), (16, 7), (16, 8)], ids=lambda p: f"pg{p[0]}-v{p[1]}"
)
def record(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    major, version = request.param
    server: EmbeddedServer = request.getfixturevalue({18: "postgres", 16: "postgres16"}[major])
    databases = Databases(server, MIGRATIONS)
    target = databases.create("v7")
    load(target, Parameters(COUNT, domains=8))
    with connect(target) as session:
        session.execute(ODD.encode())
        old = session.rows(b"SELECT domain_id::text AS old, name AS new FROM mandate.domains")
        identities = {row["old"]: row["new"] for row in old}
    if version >= 8:
        migrate_with_psql(target)
    if version == 9:
        migrate_with_psql(target, MIGRATIONS / "009_tenant_keys.sql")
    with serving(target, tmp_path_factory.mktemp("log")) as service:
        yield Record(service, target, version, identities)
        assert service.stop() == 0
        assert not re.findall("(?i).*(?:error|exception|fail).*", service.log_file.read_text())
    databases.drop(target.database)


def test_every_decision_is_there_once_last_received_first(record: Record) -> None:
    received = "received_at" if record.version >= 9 else "created_at"
    expected = record.query(
        "SELECT decision_id::text AS id FROM mandate.decision_events"
        f" ORDER BY {received} DESC, decision_id DESC"
    )
    assert [row["decision_id"] for row in record.decisions] == [row["id"] for row in expected]
    assert len(expected) == COUNT + 4
    assert all(list(row) == [*DECISION, "verdict"] for row in record.decisions)
    assert {row["verdict"] for row in record.decisions} == {"ALLOW", "BLOCK", "OBSERVE", "PAUSE", None}


def test_every_verdict_is_there_once_newest_first(record: Record) -> None:
    expected = record.query(
        "SELECT verdict_id::text AS id FROM mandate.verdict_events ORDER BY timestamp DESC, verdict_id DESC"
    )
    assert [row["verdict_id"] for row in record.verdicts] == [row["id"] for row in expected]
    assert all(list(row) == VERDICT for row in record.verdicts)
    assert all(row["explanation"].startswith(f"Verdict {row['verdict']}: ") for row in record.verdicts)


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_pages_of_any_size_make_the_same_list(record: Record, limit: int) -> None:
    path = f"/api/decisions?stage=executed&limit={limit}"
    expected = [row for row in record.decisions if row["stage"] == "executed"]
    assert len(expected) > 20
    assert record.service.rows(path) == expected


def test_pages_hold_still_while_rows_arrive(record: Record) -> None:
    first = record.service.get("/api/decisions?limit=100").json
    with connect(record.target) as session:
        arrived = session.rows(
            b"INSERT INTO mandate.decision_events SELECT (jsonb_populate_record(d, jsonb_build_object("
            b"'decision_id', gen_random_uuid(), 'timestamp', timestamptz '0001-01-01', 'created_at',"
            b" timestamptz '9999-01-01', 'received_at', timestamptz '9999-01-01'))).*"
            b" FROM mandate.decision_events d WHERE intent NOT LIKE 'odd%' LIMIT 3 RETURNING decision_id"
        )
        rest = record.service.rows("/api/decisions?limit=100", first["next_cursor"])
        assert first["decisions"] + rest == record.decisions
        assert (
            len(record.service.rows("/api/decisions?limit=100"))
            == len(record.decisions) + len(arrived)
            == COUNT + 7
        )
        _forget(session, "decision_events", "decision_id", [row["decision_id"] for row in arrived])


def _forget(session: Session, table: str, key: str, values: list[Any]) -> None:
    """Take a test's own rows away again; the tables are append-only."""
    session.execute(b"SET session_replication_role = replica")
    statement = sql.SQL("DELETE FROM mandate.{} WHERE {} = ANY (%s)")
    session.execute(statement.format(sql.Identifier(table), sql.Identifier(key)), (values,))


FILTERS: dict[str, Callable[[Any], str]] = {
    "organization_id": lambda row: row["organization_id"],
    "domain": lambda row: row["domain"],
    "intent": lambda row: row["intent"],
    "stage": lambda row: row["stage"],
    "actor": lambda row: row["actor"],
    "target": lambda row: row["target"],
    "verdict": lambda row: row["verdict"],
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_keeps_just_its_rows(record: Record, name: str) -> None:
    values = sorted({FILTERS[name](row) for row in record.decisions} - {None})[:12]
    assert values
    judged = {row["decision_id"]: row for row in record.decisions}
    for value in values:
        asked = urlencode({name: value, "limit": 500})
        decisions = [row for row in record.decisions if row[name] == value]
        assert record.service.rows(f"/api/decisions?{asked}") == decisions
        verdicts = [row for row in record.verdicts if judged[row["decision_id"]][name] == value]
        assert record.service.rows(f"/api/v1/verdicts?{asked}") == verdicts


def test_filters_combine(record: Record) -> None:
    sample = next(row for row in record.decisions if row["verdict"] == "BLOCK")
    names = ["organization_id", "domain", "intent", "stage", "verdict"]
    expected = [row for row in record.decisions if all(row[name] == sample[name] for name in names)]
    asked = urlencode({name: sample[name] for name in names})
    assert 0 < len(expected) < len(record.decisions)
    assert record.service.rows(f"/api/decisions?limit=500&{asked}") == expected


def test_since_is_inclusive_and_until_is_not_and_both_go_by_receipt(record: Record) -> None:
    received = "received_at" if record.version >= 9 else "created_at"
    rows = record.query(f"SELECT decision_id::text AS id, {received} AS at FROM mandate.decision_events")
    at = {row["id"]: row["at"] for row in rows}
    times = sorted(at.values())
    since, until = times[100], times[200]
    asked = urlencode({"since": since.isoformat(), "until": until.isoformat(), "limit": 500})
    expected = [row for row in record.decisions if since <= at[row["decision_id"]] < until]
    assert len(expected) >= 100 == len({times.index(at[row["decision_id"]]) for row in expected})
    assert record.service.rows(f"/api/decisions?{asked}") == expected
    # Whatever a caller says of itself: these say 1970 to 9999, and were received just now.
    odd = [row["decision_id"] for row in record.decisions if row["actor"].startswith("O'Brien")]
    lately = urlencode({"since": min(at[each] for each in odd).isoformat(), "limit": 500})
    assert {row["decision_id"] for row in record.service.rows(f"/api/decisions?{lately}")} >= {*odd}
    backwards = urlencode({"since": until.isoformat(), "until": since.isoformat()})
    assert record.service.rows(f"/api/decisions?{backwards}") == []


def test_the_uuid_that_a_domain_had_still_filters(record: Record) -> None:
    seen = 0
    for uuid, name in record.identities.items():
        rows = record.service.rows(f"/api/decisions?limit=500&domain={uuid}")
        seen += len(rows)
        assert {row["domain"] for row in rows} <= {name}
        assert len({row["organization_id"] for row in rows}) <= 1
        assert rows == record.service.rows(f"/api/decisions?limit=500&domain={uuid.upper()}")
        assert [row["domain"] for row in record.service.rows(f"/api/domains?domain={uuid}")] == [name]
    assert seen == len(record.decisions)


def test_a_scope_is_found_by_what_is_shown_and_by_its_old_uuid(record: Record) -> None:
    scopes = {row["scope_id"] for row in record.verdicts} - {None}
    assert len(scopes) > 3
    old = {}
    if record.version == 8:
        mapped = record.query("SELECT old_key, new_key FROM mandate.identity_map WHERE kind = 'scope'")
        old = {row["new_key"]: row["old_key"] for row in mapped}
        assert all(
            scope.startswith(row["domain"] + ".") for row in record.verdicts if (scope := row["scope_id"])
        )
    for scope in sorted(scopes)[:6]:
        expected = [row for row in record.verdicts if row["scope_id"] == scope]
        for key in (scope, old.get(scope, scope)):
            asked = urlencode({"scope_id": key, "limit": 500})
            assert record.service.rows(f"/api/verdicts?{asked}") == expected
            decisions = record.service.rows(f"/api/decisions?{asked}")
            assert {row["decision_id"] for row in decisions} == {row["decision_id"] for row in expected}


@pytest.mark.parametrize(
    "asked",
    [
        {"domain": "no-such-domain"},
        {"domain": NOBODY},
        {"domain": "'; DROP TABLE mandate.domains; --"},
        {"scope_id": "no.such.scope"},
        {"scope_id": NOBODY},
        {"organization_id": NOBODY},
        {"actor": "%"},
        {"intent": "odd_<script>_ünï"},
    ],
)
def test_what_does_not_exist_gives_an_empty_list(record: Record, asked: dict[str, str]) -> None:
    for path in ("decisions", "verdicts"):
        answer = record.service.get(f"/api/{path}?{urlencode(asked)}")
        assert (answer.status, answer.json) == (200, {path: [], "next_cursor": None})


def test_evidence_keeps_every_digit_and_every_time(record: Record) -> None:
    odd = record.service.rows(f"/api/decisions?{urlencode({'intent': 'odd <script> ünï', 'limit': 1})}")
    assert {row["timestamp"] for row in odd} == {
        "infinity",
        "12026-01-01T00:00:00+00:00",
        "0044-03-15T00:00:00+00:00 BC",
        "-infinity",
    }
    odd.sort(key=lambda row: row["timestamp"] != "infinity")
    answer = record.service.get(f"/api/decisions/{odd[0]['decision_id']}")
    assert b'"context" : {"n": 12345678901234567890.1234567890}' in answer.body
    assert odd[0]["actor"] == 'O\'Brien "x" \\'


def test_one_decision_its_verdict_and_its_timeline(record: Record) -> None:
    for shown in record.decisions[10:14]:
        path = f"/api/decisions/{shown['decision_id']}"
        alone = record.service.get(path).json
        assert list(alone) == DECISION
        assert {**alone, "verdict": shown["verdict"]} == shown
        assert record.service.get(path.upper().replace("/API/DECISIONS", "/api/v1/decisions")).json == alone
        verdict = record.service.get(f"{path}/verdict").json
        assert verdict in record.verdicts
        assert verdict["decision_id"] == shown["decision_id"]
        timeline = record.service.rows(f"{path}/timeline?limit=1")
        assert timeline == record.service.get(f"{path}/timeline").json["timeline"]
        assert [entry["details"]["type"] for entry in timeline][:2] == ["DECISION_RECORDED", "VERDICT_ISSUED"]
        assert {entry["decision_id"] for entry in timeline} == {shown["decision_id"]}
        assert {entry["domain"] for entry in timeline} == {shown["domain"]}


def test_the_latest_verdict_counts(record: Record) -> None:
    before = next(row for row in record.verdicts if row["verdict"] == "ALLOW")
    path = f"/api/decisions?target={quote(_target(record, before['decision_id']), safe='')}&limit=500"
    with connect(record.target) as session:
        session.execute(
            "INSERT INTO mandate.verdict_events SELECT (jsonb_populate_record(v, jsonb_build_object("
            "'verdict_id', %(new)s::uuid, 'verdict', 'BLOCK',"
            " 'timestamp', v.timestamp + interval '1 second'))).*"
            " FROM mandate.verdict_events v WHERE verdict_id = %(old)s",
            {"old": before["verdict_id"], "new": NOBODY},
        )
        found = [r for r in record.service.rows(path) if r["decision_id"] == before["decision_id"]]
        assert [row["verdict"] for row in found] == ["BLOCK"]
        allowed = record.service.rows(f"{path}&verdict=ALLOW")
        assert before["decision_id"] not in {row["decision_id"] for row in allowed}
        _forget(session, "verdict_events", "verdict_id", [UUID(NOBODY)])


def _target(record: Record, decision_id: str) -> str:
    return str(next(row["target"] for row in record.decisions if row["decision_id"] == decision_id))


def test_domains_are_listed_by_organization_and_name(record: Record) -> None:
    rows = record.service.rows("/api/domains?limit=2")
    assert sorted(row["domain"] for row in rows) == sorted(record.identities.values())
    assert [*rows[0]] == ["organization_id", "domain", "description", "metadata", "created_at"]
    one = rows[0]["organization_id"]
    expected = [row for row in rows if row["organization_id"] == one]
    assert record.service.rows(f"/api/domains?organization_id={one}") == expected
    assert len({row["organization_id"] for row in record.service.rows("/api/domains?domain=finance")}) > 1


def test_health_says_which_schema_it_is(record: Record) -> None:
    health = record.service.get("/api/health").json
    assert (health["status"], health["schema_version"]) == ("ok", record.version)
    assert record.service.get("/api/v1/health").json == health
    assert record.service.get("/readyz").json == {"status": "ready", "schema_version": record.version}
    assert record.service.get("/healthz").json == {"status": "alive"}


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("/", 404, "no-such-path"),
        ("/api", 404, "no-such-path"),
        ("/api/decisions/", 404, "no-such-path"),
        ("/api/failover", 404, "no-such-path"),
        ("/api/decisions/fail", 400, "malformed-parameter"),
        ("/redoc", 404, "no-such-path"),
        (f"/api/decisions/{NOBODY}", 404, "no-such-decision"),
        (f"/api/decisions/{NOBODY}/verdict", 404, "no-such-decision"),
        (f"/api/decisions/{NOBODY}/timeline", 404, "no-such-decision"),
        ("/api/decisions/0dd00001-0000-4000-8000-000000000001/verdict", 404, "no-verdict"),
        (f"/api/decisions/{NOBODY}?verbose=1", 400, "unknown-parameter"),
        ("/api/decisions/0dd00001-0000-4000-8000-00000000000%00", 400, "malformed-request"),
        ("/api/%ff", 400, "malformed-request"),
        ("/api/decisions?limit=501", 400, "malformed-parameter"),
        ("/api/decisions?nope=1", 400, "unknown-parameter"),
        ("/api/domains?verdict=ALLOW", 400, "unknown-parameter"),
        ("/api/verdicts?domain=a&domain=b", 400, "repeated-parameter"),
        ("/api/decisions?actor=" + "x" * 20_000, 414, "url-too-long"),
        ("/" + "x" * 20_000, 414, "url-too-long"),
    ],
)
def test_problems_have_a_stable_type(record: Record, path: str, status: int, problem: str) -> None:
    answer = record.service.get(path)
    assert (answer.status, answer.problem) == (status, problem)
    assert answer.json["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"


def test_an_empty_timeline_of_a_decision_that_exists_is_a_list(record: Record) -> None:
    answer = record.service.get("/api/decisions/0dd00001-0000-4000-8000-000000000001/timeline")
    assert answer.json == {"timeline": [], "next_cursor": None}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_no_other_method_is_allowed(record: Record, method: str) -> None:
    answer = record.service.get("/api/decisions", method=method)
    assert (answer.status, answer.problem) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


def test_head_is_get_without_the_body(record: Record) -> None:
    for path in ("/api/decisions?limit=3", f"/api/decisions/{NOBODY}", "/readyz"):
        got, head = record.service.get(path), record.service.get(path, method="HEAD")
        assert (head.status, head.body) == (got.status, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert int(head.headers["content-length"]) == len(got.body)


def test_headers_and_hosts_have_limits(record: Record) -> None:
    assert record.service.get("/healthz", headers={"X-Long": "x" * 20_000}).problem == "headers-too-large"
    assert record.service.get("/healthz", headers={"Host": "rebound.example"}).problem == "host-not-allowed"
    assert record.service.get("/healthz", headers={"Host": f"localhost:{record.service.port}"}).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /api/decisions?actor=\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/decisions?actor=\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://%00/ HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"BREW /api/decisions HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST /api/decisions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{}",
    ],
)
def test_garbage_on_the_wire_is_refused_and_nothing_breaks(record: Record, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", record.service.port), timeout=30) as wire:
        try:
            wire.sendall(sent)
            first = wire.recv(64)
        except ConnectionError:
            first = b""
    assert first == b"" or re.match(rb"HTTP/1\.1 (400|405|413|414|415|431) ", first)
    assert record.service.get("/healthz").status == 200


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["decisions", "verdicts", "domains"]),
    asked=st.dictionaries(
        st.sampled_from(["domain", "intent", "actor", "target", "scope_id", "since", "cursor", "limit"]),
        st.one_of(st.text(max_size=30), st.sampled_from(["finance", "1", "2026-01-01T00:00:00Z", "%", "{}"])),
        max_size=3,
    ),
)
def test_no_filter_breaks_the_service(record: Record, path: str, asked: dict[str, str]) -> None:
    answer = record.service.get(f"/api/{path}?{urlencode(asked, errors='replace')}")
    if answer.status != 200:
        assert answer.status == 400
        assert answer.problem in ("malformed-parameter", "malformed-request", "unknown-parameter")


def test_the_log_has_a_line_for_every_request_and_nothing_a_caller_made_up(record: Record) -> None:
    answer = record.service.get("/api/decisions?actor=the-failed-exception")
    again = record.service.get("/api/decisions/error-fail/verdict")
    first, second = record.service.line(answer), record.service.line(again)
    assert (first["method"], first["path"], first["status"]) == ("GET", "/api/decisions", 200)
    assert first["ms"] > 0
    assert (second["path"], second["status"]) == ("/api/decisions/?/verdict", 400)
    assert first["timestamp"].endswith("Z")


def test_the_service_is_known_to_postgresql_by_its_name(record: Record) -> None:
    found = record.query(
        "SELECT DISTINCT application_name FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    assert [row["application_name"] for row in found] == ["mandate-serve"]
