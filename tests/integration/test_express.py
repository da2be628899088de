"""The short way to a decision: whatever comes on a connection is answered in order, and as ever."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.posting import Point, decision, decision_point, post, verdict_of
from tests.serving import eventually

HEAD = b"POST /api/decisions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Point]:
    with decision_point(request, tmp_path_factory.mktemp("log"), 9) as found:
        assert verdict_of(post(found.service, decision())) == "PAUSE"  # from now on it is all in memory
        yield found


@contextmanager
def wire(point: Point) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", point.service.port), timeout=30) as connection:
        yield connection


def plain(**changes: Any) -> bytes:
    body = json.dumps(decision(**changes)).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(**changes: Any) -> bytes:
    body = json.dumps(decision(**changes)).encode()
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def answered(connection: socket.socket, count: int) -> list[tuple[int, Any, dict[str, str]]]:
    """Status, document and headers of so many answers."""
    found = []
    file = connection.makefile("rb")
    for _ in range(count):
        status = int(file.readline().split()[1])
        headers = {name.lower(): value for name, value in http.client.parse_headers(file).items()}
        found.append((status, json.loads(file.read(int(headers["content-length"]))), headers))
    return found


def test_what_comes_at_once_is_answered_in_order(point: Point) -> None:
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(1, 6)]
    first, second, third, fourth, fifth = ids
    with wire(point) as connection:
        connection.sendall(
            plain(decision_id=first)
            + chunked(decision_id=second)
            + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            + plain(decision_id=third, domain="nowhere")
            + plain(decision_id=fourth)
            + plain(decision_id=first)
            + plain(decision_id=fifth)
        )
        answers = answered(connection, 7)
    assert [status for status, _, _ in answers] == [201, 201, 200, 404, 201, 200, 201]
    given = [document["decision"]["decision_id"] for _, document, _ in answers if "decision" in document]
    assert given == [first, second, fourth, first, fifth]
    assert answers[0][1] == answers[5][1]
    assert len({headers["x-request-id"] for _, _, headers in answers}) == 7


def test_a_body_may_come_in_pieces_and_the_connection_may_end_with_the_answer(point: Point) -> None:
    request = plain().replace(b"Host: localhost\r\n", b"Host: localhost\r\nConnection: close\r\n")
    with wire(point) as connection:
        for at in range(0, len(request), 50):
            connection.sendall(request[at : at + 50])
        ((status, _, headers),) = answered(connection, 1)
        assert (status, headers["connection"]) == (201, "close")
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"application/json", b"text/plain"), 415),
        ((b"Host: localhost", b"Host: elsewhere.example"), 421),
        ((b"Host: localhost", b"Host: localhost\r\nHost: localhost"), 400),
        ((b"Host: localhost", b"Host: localhost\r\nX-Long: " + b"x" * 17_000), 431),
        ((b"Host: localhost", b"Host: localhost\r\nContent-Encoding: gzip"), 415),
        ((b"Host: localhost", b"Host: localhost\r\nAuthorization: Basic x"), 201),
        ((b'"amount": 740', b'"amount": 74e'), 400),
        ((b'"amount": 740', b'"amount": NaN'), 400),
        ((b"/api/decisions", b"/api/decisions?a=b"), 400),
        ((b"/api/decisions", b"/api/v1/decisions"), 201),
        ((b'"intent": "issue_refund"', b'"intent": "issue_nothing"'), 422),
    ],
)
def test_the_unusual_is_answered_as_ever(point: Point, change: tuple[bytes, bytes], status: int) -> None:
    request = plain().replace(*change)
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    request = b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
    with wire(point) as connection:
        connection.sendall(request)
        ((found, document, _),) = answered(connection, 1)
    assert found == status, document


def test_half_a_body_is_no_decision_and_is_logged(point: Point) -> None:
    with wire(point) as connection:
        connection.sendall(plain(decision_id="00000000-0000-4000-8000-00000000000f")[:-50])
    lost = eventually(lambda: [x for x in point.service.log() if x.get("problem") == "incomplete-body"])
    assert [line["status"] for line in lost] == [400]
    assert point.service.get("/api/decisions/00000000-0000-4000-8000-00000000000f").status == 404


def test_the_log_tells_of_a_decision_as_of_any_request(point: Point) -> None:
    answer = post(point.service, decision())
    line = point.service.line(answer)
    assert list(line) == [
        *("timestamp", "level", "logger", "event"),
        *("request_id", "method", "path", "status", "ms", "decision_id"),
    ]
    other = point.service.line(point.service.get("/healthz"))
    assert set(other) == set(line) - {"decision_id"}
    assert line["decision_id"] == answer.json["decision"]["decision_id"]


def test_nobody_is_left_waiting_for_somebody_else_to_come(point: Point) -> None:
    """A decision that comes just as the last group is done has nobody behind it to have it written."""
    failed: list[BaseException] = []

    def client(name: int) -> None:
        try:
            with closing(
                http.client.HTTPConnection("127.0.0.1", point.service.port, timeout=30)
            ) as connection:
                for _ in range(200):
                    body = json.dumps(decision(target=f"order/{name}"))
                    connection.request("POST", "/api/decisions", body, {"Content-Type": "application/json"})
                    assert connection.getresponse().read()
        except (OSError, AssertionError) as error:
            failed.append(error)

    threads = [threading.Thread(target=client, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    metrics = point.service.get("/metrics").body.decode()
    assert "mandate_decisions_in_flight 0.0" in metrics


def test_a_log_that_is_moved_away_is_begun_anew(point: Point, tmp_path: Path) -> None:
    log = point.service.log_file
    old = log.rename(tmp_path / "old.log")
    try:
        line = point.service.line(post(point.service, decision()))
        assert line["status"] == 201
    finally:
        log.write_text(old.read_text() + log.read_text())
