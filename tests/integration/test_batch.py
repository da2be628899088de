"""POST /api/decisions:batch and outcomes."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from tests.posting import Point, counted, decision, decision_point, post

NDJSON = {"Content-Type": "application/x-ndjson"}
BATCH = "/api/decisions:batch"


@pytest.fixture(scope="module", params=[7, 8], ids=lambda version: f"v{version}")
def point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Point]:
    with decision_point(request, tmp_path_factory.mktemp("log"), request.param) as found:
        yield found


def batch(point: Point, *lines: Any) -> list[Any]:
    """Post lines (bytes as they are) and return the lines of the answer."""
    return [json.loads(line) for line in answered(point, *lines)]


def answered(point: Point, *lines: Any) -> list[bytes]:
    """The lines of the answer as they are sent."""
    sent = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    answer = post(point.service, b"\n".join(sent), BATCH, NDJSON)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.body.endswith(b"\n") or not answer.body
    return answer.body.splitlines()


def test_the_same_line_again_is_the_same_verdict_to_the_byte(point: Point) -> None:
    body = decision(timestamp="2026-01-31T12:00:00.120Z", actor='\x7f\n"\u2028\U0001f600')
    lines = [answered(point, body, body), answered(point, body)]
    verdicts = [line.partition(b'"verdict": ')[2] for both in lines for line in both]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    shown = point.service.get(f"/api/decisions/{body['decision_id']}/verdict").body
    assert verdicts[0] == shown + b"}"


def test_a_line_for_a_line_each_all_or_nothing(point: Point) -> None:
    good, other = decision(), decision(context={"amount": 1, "customer_verified": False})
    before = counted(point.target)
    lines = batch(
        *(point, good, other, decision(intent="no-such"), b"", b"  ", b"{", good, {**good, "actor": "b"}),
        *(decision(x=1), decision(context={"a": "x" * 300_000}), b"\xff", decision(organization_id=None)),
    )
    assert [line["line"] for line in lines] == [1, 2, 3, 6, 7, 8, 9, 10, 11, 12]
    assert [line["status"] for line in lines] == [201, 201, 422, 400, 200, 409, 422, 413, 400, 201]
    assert [line["decision_id"] for line in lines[:2]] == [good["decision_id"], other["decision_id"]]
    assert [line["verdict"]["verdict"] for line in lines if "verdict" in line] == [
        *("PAUSE", "BLOCK", "PAUSE", "OBSERVE")
    ]
    assert lines[2]["problem"]["type"] == "urn:mandate:problem:no-active-spec"
    assert counted(point.target) == (before[0] + 3, before[1] + 3, before[2] + 6)
    verdict = point.service.get(f"/api/decisions/{good['decision_id']}/verdict").json
    assert lines[0]["verdict"] == lines[4]["verdict"] == verdict


def test_the_log_says_which_decisions_were_in_a_batch(point: Point) -> None:
    before, refused, sent = decision(), decision(intent="no-such"), [decision() for _ in range(250)]
    assert post(point.service, before).status == 201
    lines = [*map(json.dumps, [*sent, before]), "{", json.dumps(refused)]
    answer = post(point.service, "\n".join(lines).encode(), BATCH, NDJSON)
    assert answer.status == 200
    request_id = point.service.line(answer)["request_id"]
    told = [x for x in point.service.log() if x["event"] == "batch" and x["request_id"] == request_id]
    told.sort(key=lambda line: line["lines"])  # two chunks are worked on at a time
    assert [(each["lines"], each["statuses"]) for each in told] == [
        ([1, 250], {"201": 250}),
        ([251, 253], {"200": 1, "400": 1, "422": 1}),
    ]
    assert told[0]["decision_ids"] == [each["decision_id"] for each in sent]
    assert told[1]["decision_ids"] == [before["decision_id"], refused["decision_id"]]


def test_thousands_of_lines_come_back_in_their_order(point: Point) -> None:
    sent = [
        decision(target=f"order/{n}", context={"amount": n, "customer_verified": True}) for n in range(1000)
    ]
    lines = batch(point, *sent)
    assert [line["decision_id"] for line in lines] == [line["decision_id"] for line in sent]
    assert [line["verdict"]["verdict"] for line in lines] == ["ALLOW"] * 501 + ["PAUSE"] * 499
    again = batch(point, *sent[::2])
    assert [line["status"] for line in again] == [200] * 500
    assert [line["verdict"] for line in again] == [line["verdict"] for line in lines[::2]]


@pytest.mark.parametrize("body", [b"", b"\n\n", b" "])
def test_nothing_is_answered_with_nothing(point: Point, body: bytes) -> None:
    answer = post(point.service, body, BATCH, NDJSON)
    assert (answer.status, answer.body) == (200, b"")


def test_limits_and_forms(point: Point) -> None:
    assert post(point.service, b"{}", BATCH).problem == "unsupported-media-type"
    assert post(point.service, b"\n" * (16 * 1024 * 1024 + 1), BATCH, NDJSON).problem == "body-too-large"
    assert point.service.get(BATCH).status == 405


def chunked(point: Point, chunks: Iterator[bytes]) -> bytes:
    """What the service answers to a body whose length it is not told."""
    connection = http.client.HTTPConnection("127.0.0.1", point.service.port, timeout=60)
    try:
        connection.request("POST", BATCH, chunks, NDJSON, encode_chunked=True)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_a_body_without_a_length_is_read_as_it_comes(point: Point) -> None:
    one, two = decision(), decision()
    text = json.dumps(one).encode() + b"\n" + json.dumps(two).encode() + b"\n"
    answer = chunked(point, (text[at : at + 100] for at in range(0, len(text), 100)))
    assert [json.loads(line)["status"] for line in answer.splitlines()] == [201, 201]


def test_too_large_without_a_length_keeps_what_came_before(point: Point) -> None:
    first = json.dumps(decision()).encode() + b"\n"
    for filler in (b" " * 1024 * 1023 + b"\n", b"\n" * 1024 * 1024):  # too many bytes, too many lines
        answer = chunked(point, iter([first, *[filler] * 17]))
        lines = [json.loads(line) for line in answer.splitlines()]
        assert [line["status"] in (200, 201) for line in lines] == [True, False]
        assert (lines[1]["status"], lines[1]["problem"]["limit"]) == (413, 16 * 1024 * 1024)


def test_whoever_leaves_in_the_middle_leaves_nothing_torn(point: Point) -> None:
    body = b"\n".join(json.dumps(decision()).encode() for _ in range(2000))
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", point.service.port, timeout=60)
        connection.putrequest("POST", BATCH)
        connection.putheader("Content-Type", NDJSON["Content-Type"])
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[: len(body) // 2])
        connection.close()
    assert post(point.service, decision()).status == 201
    counted(point.target)


OUTCOME = {
    "outcome": "done",
    "details": {"refund": "RF-1", "n": 1},
    "actor": "human:a",
    "severity": "warning",
}


def outcome(point: Point, decision_id: str, body: Any) -> Any:
    return post(point.service, body, f"/api/v1/decisions/{decision_id}/outcome")


def test_an_outcome_ends_the_timeline_and_is_recorded_once(point: Point) -> None:
    body = decision()
    post(point.service, body)
    first = outcome(point, body["decision_id"], OUTCOME)
    again = outcome(point, body["decision_id"], dict(reversed(OUTCOME.items())))
    assert (first.status, again.status) == (201, 200)
    assert first.json == again.json
    entry = first.json
    assert (entry["summary"], entry["actor"], entry["stage"]) == ("Outcome: done", "human:a", "executed")
    assert entry["details"] == {"type": "OUTCOME", "outcome": "done", "details": OUTCOME["details"]}
    timeline = point.service.get(f"/api/decisions/{body['decision_id']}/timeline").json["timeline"]
    assert timeline[2:] == [entry]
    other = outcome(point, body["decision_id"], {**OUTCOME, "details": {"refund": "RF-1", "n": "1"}})
    assert other.status == 201
    plain = outcome(point, body["decision_id"], {"outcome": "approved", "timestamp": "2026-01-31T12:00:00Z"})
    assert (plain.status, plain.json["actor"]) == (201, "refund-agent")
    assert plain.json["timestamp"] == "2026-01-31T12:00:00+00:00"
    # Its caller says that it was long ago: it was received last.
    entries = [*timeline, other.json, plain.json]
    assert point.service.rows(f"/api/decisions/{body['decision_id']}/timeline?limit=1") == entries


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({}, 422, "invalid-outcome"),
        ({"outcome": ""}, 422, "invalid-outcome"),
        ({"outcome": "x" * 601}, 422, "invalid-outcome"),
        ({"outcome": 1}, 422, "invalid-outcome"),
        ({"outcome": "x", "actor": ""}, 422, "invalid-outcome"),
        ({"outcome": "x", "severity": "mild"}, 422, "invalid-outcome"),
        ({"outcome": "x", "severity": ["info"]}, 422, "invalid-outcome"),
        ({"outcome": "x", "details": []}, 422, "invalid-outcome"),
        ({"outcome": "x", "timestamp": "now"}, 422, "invalid-outcome"),
        ({"outcome": "x", "type": "VERDICT_ISSUED"}, 422, "invalid-outcome"),
        ({"outcome": "\0"}, 400, "malformed-body"),
        (b"[]", 400, "malformed-body"),
        ({"outcome": "x", "details": {"a": "x" * 300_000}}, 413, "body-too-large"),
    ],
)
def test_outcomes_that_are_refused(point: Point, body: Any, status: int, problem: str) -> None:
    sent = decision()
    post(point.service, sent)
    answer = outcome(point, sent["decision_id"], body)
    assert (answer.status, answer.problem) == (status, problem)


def test_an_outcome_needs_its_decision(point: Point) -> None:
    assert outcome(point, str(uuid4()), OUTCOME).problem == "no-such-decision"
    assert outcome(point, "x", OUTCOME).problem == "malformed-parameter"
