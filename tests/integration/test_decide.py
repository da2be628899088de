"""POST /api/decisions: judged, recorded in one transaction, and the same again for whoever asks again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.posting import (
    FINANCE_UUID,
    ORGANIZATION,
    Point,
    counted,
    decision,
    decision_point,
    post,
    verdict_of,
)

from mandate.postgres.connection import connect


@pytest.fixture(scope="module", params=[7, 8, 9], ids=lambda version: f"v{version}")
def point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Point]:
    with decision_point(request, tmp_path_factory.mktemp("log"), request.param) as found:
        yield found


def test_a_decision_is_judged_recorded_and_readable(point: Point) -> None:
    body = decision()
    before = counted(point.target)
    answer = post(point.service, body)
    assert answer.status == 201
    given, verdict = answer.json["decision"], answer.json["verdict"]
    expected = {**body, "timestamp": "2026-01-31T12:00:00+00:00"}
    assert given == {**expected, "spec_id": "finance.refund", "spec_version": 1}
    assert verdict["verdict"] == "PAUSE"
    assert verdict["matched_policy_ids"] == ["finance-pause-large"]
    assert verdict["explanation"] == "finance-pause-large says PAUSE: amount 740 > 500"
    assert (verdict["snapshot_id"][:8], verdict["owning_team"]) == ("a0000002", "Payments")
    readable = "finance.prod.payments.refund-agent"
    assert verdict["scope_id"] == (readable if point.version >= 8 else "5c000001-0000-4000-8000-000000000001")
    where = f"/api/v1/decisions/{body['decision_id']}"
    assert point.service.get(where).json == given
    assert point.service.get(f"{where}/verdict").json == verdict
    entries = point.service.get(f"{where}/timeline").json["timeline"]
    assert [entry["details"]["type"] for entry in entries] == ["DECISION_RECORDED", "VERDICT_ISSUED"]
    assert [entry["severity"] for entry in entries] == ["info", "warning"]
    assert entries[1]["details"]["trace"] == [
        "finance-block-unverified (BLOCK) does not match: customer_verified true == false (no)",
        "finance-pause-large (PAUSE) matches: amount 740 > 500",
    ]
    assert counted(point.target) == (before[0] + 1, before[1] + 1, before[2] + 2)


@pytest.mark.parametrize(
    ("context", "scope", "verdict", "why"),
    [
        ({"amount": 1, "customer_verified": True}, {}, "ALLOW", "no policy matched: the spec's default"),
        ({"amount": 1, "customer_verified": False}, {}, "BLOCK", "finance-block-unverified says BLOCK"),
        ({"amount": 740, "customer_verified": True}, {"service": "other"}, "ALLOW", "no policy matched"),
        ({"amount": "740", "customer_verified": True}, {}, "BLOCK", "signal amount is not a valid number"),
        ({"customer_verified": True}, {}, "BLOCK", "required signal amount is missing"),
        ({"amount": 1, "customer_verified": None}, {}, "BLOCK", "required signal customer_verified is miss"),
        ({"customer_verified": True}, {"amount": 1}, "BLOCK", "required signal amount is missing"),
    ],
)
def test_verdicts(
    point: Point, context: dict[str, Any], scope: dict[str, Any], verdict: str, why: str
) -> None:
    answer = post(point.service, decision(context=context, scope=scope))
    assert verdict_of(answer) == verdict
    assert answer.json["verdict"]["explanation"].startswith(why)


def test_the_same_body_again_is_the_same_verdict(point: Point) -> None:
    body = decision(context={"amount": 740, "customer_verified": True, "n": [1.0, {"a": None}]})
    first = post(point.service, body)
    count = counted(point.target)
    again = post(point.service, body)
    reordered = dict(reversed([*body.items()])) | {"timestamp": "2026-01-31T13:00:00+01:00"}
    other_spelling = post(point.service, reordered)
    assert [first.status, again.status, other_spelling.status] == [201, 200, 200]
    assert first.body == again.body == other_spelling.body
    assert counted(point.target) == count


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "another"},
        {"target": "another"},
        {"domain": "logistics", "intent": "reroute_shipment"},
        {"context": {"amount": 741, "customer_verified": True}},
        {"scope": {}},
        {"timestamp": "2026-01-31T12:00:01Z"},
        {"unstructured_context": "more"},
        {"intent": None},
    ],
)
def test_another_body_under_the_same_id_is_a_conflict(point: Point, change: dict[str, Any]) -> None:
    body = decision()
    assert post(point.service, body).status == 201
    count = counted(point.target)
    answer = post(point.service, decision(**{**body, **change}))
    assert (answer.status, answer.problem) == (409, "decision-conflict")
    assert counted(point.target) == count


def test_an_id_is_an_organization_s_own_from_version_9_on(point: Point) -> None:
    body = decision()
    first = post(point.service, body)
    other = post(point.service, {**body, "organization_id": None})
    if point.version < 9:
        assert (other.status, other.problem) == (409, "decision-conflict")
    else:
        assert (other.status, verdict_of(other)) == (201, "OBSERVE")
        assert post(point.service, body).json == first.json
    counted(point.target)


@pytest.mark.parametrize(
    ("missing", "domain", "intent"),
    [
        ("organization_id", "unattributed", "issue_refund"),
        ("domain", "unattributed", "issue_refund"),
        ("intent", "finance", ""),
        ("stage", "finance", "issue_refund"),
    ],
)
@pytest.mark.parametrize("empty", [None, ""])
def test_missing_attribution_is_recorded_and_observed(
    point: Point, missing: str, domain: str, intent: str, empty: str | None
) -> None:
    body = decision()
    body.pop(missing)
    if empty is not None:
        body[missing] = empty
    answer = post(point.service, body)
    assert verdict_of(answer) == "OBSERVE"
    assert answer.json["verdict"]["explanation"] == f"not attributed: {missing} missing"
    found = answer.json["decision"]
    assert (found["domain"], found["intent"], found["spec_id"]) == (domain, intent, None)
    timeline = point.service.get(f"/api/decisions/{body['decision_id']}/timeline").json["timeline"]
    given = {name: body.get(name) or None for name in ("organization_id", "domain", "intent", "stage")}
    assert timeline[0]["details"]["given"] == given
    again = post(point.service, body)
    assert (again.status, again.body) == (200, answer.body)


def test_a_domain_by_the_uuid_that_it_once_had(point: Point) -> None:
    for spelled in ("finance", FINANCE_UUID):
        assert verdict_of(post(point.service, decision(domain=spelled))) == "PAUSE"
    before = kept(point)
    answer = post(point.service, decision(domain=FINANCE_UUID.upper()))
    assert verdict_of(answer) == "PAUSE"
    assert answer.json["decision"]["domain"] == "finance"
    assert kept(point) <= before, "every spelling of a UUID is kept in memory"


def kept(point: Point) -> float:
    """Domains in the service's memory."""
    return float(point.service.get("/metrics").body.partition(b"\nmandate_catalogue_domains ")[2].split()[0])


def test_what_is_made_up_for_the_caller(point: Point) -> None:
    body = decision(decision_id=None, timestamp=None, context=None, scope=None)
    answer = post(point.service, body)
    assert answer.status == 201
    assert UUID(answer.json["decision"]["decision_id"])
    assert (answer.json["decision"]["context"], answer.json["decision"]["scope"]) == ({}, {})
    assert answer.json["decision"]["timestamp"] < answer.json["verdict"]["timestamp"]


def test_every_digit_of_the_evidence_is_kept(point: Point) -> None:
    digits = "12345678901234567890.12345678901234567890"
    raw = json.dumps(decision(context={"n": "DIGITS", "ü": "\u2028\U0001f600", "amount": 1}))
    answer = post(point.service, raw.replace('"DIGITS"', digits).encode())
    assert answer.status == 201
    assert digits.encode() in answer.body
    stored = point.service.get(f"/api/decisions/{answer.json['decision']['decision_id']}")
    assert digits.encode() in stored.body
    assert stored.json["context"]["ü"] == "\u2028\U0001f600"


HOSTILE = {
    "quotes": 'it\'s "quoted" \\ {a,b} NULL %s %(x)s $1',
    "sql": "'; DROP TABLE mandate.decision_events; --",
    "control": "\x01\x1f\x7f\t\n\r",
    "wide": "\U0001f600" * 600,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_text(point: Point, text: str) -> None:
    body = decision(actor=text, target=text, context={"amount": 1, text: text}, scope={"service": text})
    body["timestamp"] = "2026-01-31T12:00:00.120Z"
    answer = post(point.service, body)
    assert answer.status == 201, answer.body
    found = answer.json["decision"]
    assert (found["actor"], found["target"], found["context"][text]) == (text, text, text)
    assert found["scope"] == {"service": text}
    where = f"/api/decisions/{body['decision_id']}"
    shown, verdict = point.service.get(where), point.service.get(f"{where}/verdict")
    assert answer.body == b'{"decision": %b, "verdict": %b}' % (shown.body, verdict.body)
    assert post(point.service, body).body == answer.body


@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        ({"domain": "no-such"}, 404, "unknown-domain"),
        ({"organization_id": str(uuid4())}, 404, "unknown-domain"),
        ({"organization_id": str(uuid4()), "domain": None}, 404, "unknown-domain"),
        ({"domain": str(uuid4())}, 404, "unknown-domain"),
        ({"intent": "no-such"}, 422, "no-active-spec"),
        ({"stage": "executed"}, 422, "no-active-spec"),
        ({"domain": "hr"}, 422, "no-policy-snapshot"),
        ({"organization_id": "x"}, 422, "invalid-decision"),
        ({"decision_id": "x"}, 422, "invalid-decision"),
        ({"decision_id": 7}, 422, "invalid-decision"),
        ({"domain": ["finance"]}, 422, "invalid-decision"),
        ({"stage": "later"}, 422, "invalid-decision"),
        ({"actor": ""}, 422, "invalid-decision"),
        ({"actor": "x" * 601}, 422, "invalid-decision"),
        ({"target": {}}, 422, "invalid-decision"),
        ({"context": []}, 422, "invalid-decision"),
        ({"scope": "prod"}, 422, "invalid-decision"),
        ({"timestamp": "yesterday"}, 422, "invalid-decision"),
        ({"timestamp": "2026-02-30T00:00:00Z"}, 422, "invalid-decision"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, 422, "invalid-decision"),
        ({"unstructured_context": "x" * 32_769}, 422, "invalid-decision"),
        ({"spec_id": "finance.refund"}, 422, "invalid-decision"),
        ({"context": {"a": "\0"}}, 400, "malformed-body"),
        ({"context": {"\0": 1}}, 400, "malformed-body"),
        ({"context": {"a": "x" * 300_000}}, 413, "body-too-large"),
    ],
)
def test_what_is_refused(point: Point, change: dict[str, Any], status: int, problem: str) -> None:
    count = counted(point.target)
    answer = post(point.service, decision(**change))
    assert (answer.status, answer.problem) == (status, problem)
    assert counted(point.target) == count


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 1e-999}',
        b'{"a": "\\ud800"}',
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 200000,
        b'{"a":' * 40000,
        b'{"a": ' + b"9" * 101 + b"}",
    ],
    ids=lambda body: repr(body[:16]),
)
def test_bodies_that_cannot_be_read(point: Point, body: bytes) -> None:
    answer = post(point.service, body)
    assert (answer.status, answer.problem) == (400, "malformed-body")
    assert ("byte order mark" in answer.json["detail"]) == body.startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_forms_that_are_not_read(point: Point, headers: dict[str, str]) -> None:
    answer = post(point.service, decision(), headers=headers)
    assert (answer.status, answer.problem) == (415, "unsupported-media-type")


def test_queries_and_other_methods_are_refused(point: Point) -> None:
    assert post(point.service, decision(), "/api/decisions?dry_run=1").problem == "unknown-parameter"
    answer = point.service.get("/api/decisions", method="DELETE")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_concurrent_posts_share_statements_and_each_gets_its_own_answer(point: Point) -> None:
    bodies = [
        decision(target=f"order/{n}", context={"amount": n, "customer_verified": True}) for n in range(400)
    ]
    bodies += bodies[:50]  # some twice
    bodies[200] = {**bodies[200], "intent": "no-such"}
    with connect(point.target) as session:
        before = session.value(b"SELECT pg_current_xact_id()::text::bigint")
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda body: post(point.service, body), bodies))
        used = session.value(b"SELECT pg_current_xact_id()::text::bigint") - before
    assert answers[200].problem == "no-active-spec"
    for n, (body, answer) in enumerate(zip(bodies, answers, strict=True)):
        if n != 200:
            assert answer.json["decision"]["target"] == body["target"]
            assert verdict_of(answer) == ("PAUSE" if body["context"]["amount"] > 500 else "ALLOW")
    assert sorted(answer.status for answer in answers if answer.status != 422) == [200] * 50 + [201] * 399
    assert used < 399, "no two decisions were written together"


def test_the_log_names_request_and_decision(point: Point) -> None:
    body = decision()
    line = point.service.line(post(point.service, body))
    assert line["decision_id"] == body["decision_id"]
    assert (line["path"], line["status"]) == ("/api/decisions", 201)
    path = f"/api/decisions/{body['decision_id'].upper()}/timeline"
    asked = point.service.line(point.service.get(path))
    assert (asked["decision_id"], asked["status"]) == (body["decision_id"], 200)
    assert "decision_id" not in point.service.line(point.service.get("/api/decisions/x/timeline"))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        ("nonsense", False),
    ],
)
def test_trace_context_is_kept_beside_the_evidence(point: Point, given: str, kept: bool) -> None:
    body = decision()
    answer = post(point.service, body, headers={"traceparent": given})
    assert answer.json["decision"]["context"] == body["context"]
    timeline = point.service.get(f"/api/decisions/{body['decision_id']}/timeline").json["timeline"]
    assert timeline[0]["details"].get("traceparent") == (given if kept else None)


def test_nobody_s_organization_is_one(point: Point) -> None:
    post(point.service, decision(organization_id=None))
    post(point.service, decision(organization_id=None, domain=None, intent=None, stage=None))
    with connect(point.target) as session:
        rows = session.rows(
            b"SELECT organization_id::text AS id FROM mandate.organizations ORDER BY organization_id"
        )
    assert [row["id"] for row in rows] == ["00000000-0000-0000-0000-000000000000", ORGANIZATION]
