"""What a client sends again, how long it waits and what it takes for an answer, on a made-up clock."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from uuid import uuid4

import pytest

from mandate.client import (
    BadAnswer,
    CannotSend,
    Client,
    Conflict,
    Invalid,
    NotAuthenticated,
    NotAuthorized,
    NotFound,
    NotTrusted,
    Problem,
    Unavailable,
)
from mandate.client.core import LINES_IN_BATCH, Core, Line, chunks
from mandate.client.documents import Attribution
from mandate.client.protocol import Answer, Attempt, Lost, Patience, Steps, Wait

T = TypeVar("T")

DECISION_ID = str(uuid4())
GIVEN = {"decision_id": DECISION_ID, "intent": "issue_refund", "target": "order/1"}
VERDICT: dict[str, Any] = {
    "verdict_id": str(uuid4()),
    "organization_id": None,
    "domain": "finance",
    "decision_id": DECISION_ID,
    "snapshot_id": str(uuid4()),
    "verdict": "ALLOW",
    "matched_policy_ids": [],
    "explanation": None,
    "spec_id": None,
    "spec_version": None,
    "scope_id": None,
    "owning_team": None,
    "timestamp": "2026-01-31T12:00:00+00:00",
    "something_newer": 1,
}


class Network:
    """Answers attempts with what it was given, one after the other, the last for ever; keeps its own time."""

    def __init__(self, *answers: Answer | Lost, seconds_each: float = 0.0) -> None:
        self.answers = list(answers)
        self.now = 0.0
        self.seconds_each = seconds_each
        self.attempts: list[Attempt] = []
        self.waits: list[float] = []

    def core(self, **attribution: Any) -> Core:
        patience = Patience(5.0, 20.0, clock=lambda: self.now, jitter=lambda _least, most: most)
        return Core("http://mandate", None, cast(Attribution, attribution), patience)

    def run(self, steps: Steps[T]) -> T:
        reply: Answer | Lost | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as ended:
                result: T = ended.value
                return result
            if isinstance(step, Wait):
                self.now += step.seconds
                self.waits.append(step.seconds)
                reply = None
            else:
                self.attempts.append(step)
                self.now += self.seconds_each
                reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def decide(self, deadline: float | None = None) -> Any:
        return self.run(self.core().decide(GIVEN, None, deadline))


def answer(document: Any, status: int = 201, headers: dict[str, str] | None = None) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, {"content-type": "application/json", **(headers or {})}, body)


def judged(**changes: Any) -> Answer:
    return answer({"decision": {}, "verdict": {**VERDICT, **changes}})


def refused(status: int, name: str = "some", retry_after: str | None = None) -> Answer:
    headers = {"content-type": "application/problem+json; charset=utf-8"}
    if retry_after is not None:
        headers["retry-after"] = retry_after
    document = {"type": f"urn:mandate:problem:{name}", "title": "T", "status": status, "detail": "d"}
    return answer(document, status, headers)


LOST = Lost(ConnectionRefusedError("nobody listens"))


def test_the_same_bytes_are_sent_until_there_is_an_answer() -> None:
    network = Network(LOST, refused(503), answer(b"<html>", 502), LOST, judged())
    assert network.decide().verdict == "ALLOW"
    assert len(network.attempts) == 5
    assert len({attempt.request for attempt in map(_hashable, network.attempts)}) == 1
    assert network.waits == [0.1, 0.2, 0.4, 0.8], "each time longer"


def _hashable(attempt: Attempt) -> Any:
    return SimpleNamespace(request=(attempt.request.path, attempt.request.body))


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (9, "clock"),
        (10, "renew"),
        (18, "SSL_CERT_FILE"),
        (20, "SSL_CERT_FILE"),
        (62, "base_url"),
        (64, "base_url"),
    ],
)
def test_a_certificate_is_looked_at_once(code: int, hint: str) -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_code, refused.verify_message = code, "what is wrong"
    lost = ConnectionError("as the transport says it")
    lost.__cause__ = refused
    network = Network(Lost(lost))
    with pytest.raises(NotTrusted, match="what is wrong") as caught:
        network.decide()
    assert (len(network.attempts), network.waits) == (1, [])
    assert hint in str(caught.value.hint)
    assert caught.value.fields["decision_id"] == DECISION_ID


def test_a_decision_id_is_made_once() -> None:
    network = Network(LOST, LOST, judged())
    with pytest.raises(BadAnswer, match="answered about"):
        network.run(network.core(actor="a").decide({"intent": "i", "target": "t"}, None, None))
    (body,) = {attempt.request.body for attempt in network.attempts}
    assert body is not None
    assert set(json.loads(body)) == {"actor", "intent", "target", "decision_id"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, NotAuthenticated),
        (403, NotAuthorized),
        (404, NotFound),
        (409, Conflict),
        (413, Invalid),
        (415, Invalid),
        (422, Invalid),
        (418, Problem),
        (429, Problem),
        (500, Problem),
    ],
)
def test_a_refusal_is_not_asked_about_again(status: int, kind: type[Problem]) -> None:
    network = Network(refused(status, "no-active-spec"))
    with pytest.raises(Problem) as caught:
        network.decide()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.name, caught.value.detail) == (status, "no-active-spec", "d")
    assert len(network.attempts) == 1


def test_retry_after_is_waited_for() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)
    network = Network(refused(503, retry_after="3"), refused(503, retry_after=when), judged())
    network.decide()
    assert network.waits[0] == pytest.approx(3.1)
    assert 8 < network.waits[1] < 10.3


@pytest.mark.parametrize("retry_after", ["", "soon", "-1", "1e9", "0", "\u0661", "Mon, 99 Foo"])
def test_a_retry_after_that_means_nothing_is_no_reason_to_hurry(retry_after: str) -> None:
    network = Network(refused(503, retry_after=retry_after), judged())
    network.decide()
    assert network.waits == [0.1]


def test_nobody_is_waited_for_beyond_the_deadline() -> None:
    network = Network(refused(503, "database-unavailable", retry_after="99999999999"))
    with pytest.raises(Unavailable) as caught:
        network.decide()
    assert (network.now, len(network.attempts)) == (0.0, 1)
    assert caught.value.problem is not None
    assert caught.value.problem.name == "database-unavailable"
    assert caught.value.fields == {"tries": 1, "decision_id": DECISION_ID}


def test_attempts_end_with_the_deadline() -> None:
    network = Network(LOST, seconds_each=2.0)
    with pytest.raises(Unavailable, match="no answer after 3 tries: nobody listens") as caught:
        network.decide(deadline=6.5)
    assert [attempt.seconds for attempt in network.attempts] == [5.0, pytest.approx(4.4), pytest.approx(2.2)]
    assert caught.value.__cause__ is LOST.cause
    assert network.now <= 6.5


@pytest.mark.parametrize(
    "given",
    [
        answer(b"<html>welcome</html>", 200),
        answer([], 200),
        answer({"verdict": []}),
        answer({"verdict": None}),
        answer({"verdict": {"verdict": "ALLOW"}}),
        answer(b"[" * 100_000),
        answer(b""),
        answer({}, 302, {"location": "http://elsewhere"}),
        answer("who are you", 401),
        answer(b"{", 404, {"content-type": "application/problem+json"}),
        answer([], 404, {"content-type": "application/problem+json"}),
        judged(verdict="ALLOWED"),
        judged(verdict=["ALLOW"]),
        judged(verdict=None),
        judged(decision_id=str(uuid4())),
        judged(decision_id=7),
        judged(timestamp="yesterday"),
        judged(timestamp=None),
    ],
)
def test_what_is_no_verdict_is_not_taken_for_one(given: Answer) -> None:
    network = Network(given)
    with pytest.raises(BadAnswer):
        network.decide()
    assert len(network.attempts) == 1


@pytest.mark.parametrize(
    "context",
    [
        {"amount": float("nan")},
        {"amount": {1, 2}},
        {"name": "\ud800"},
        {"when": datetime(2026, 1, 1, tzinfo=UTC)},
        {("a",): 1},
    ],
)
def test_what_json_cannot_say_is_not_sent(context: Any) -> None:
    network = Network(judged())
    with pytest.raises(CannotSend):
        network.run(network.core().decide({**GIVEN, "context": context}, None, None))
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CannotSend):
        network.run(network.core().decide({**GIVEN, "context": {"loop": loop}}, None, None))
    with pytest.raises(CannotSend, match="time zone"):
        network.run(network.core().decide({**GIVEN, "timestamp": datetime(2026, 1, 1)}, None, None))
    with pytest.raises(CannotSend, match="trace context"):
        network.run(network.core().decide(GIVEN, "00-x\r\nAuthorization: y", None))
    with pytest.raises(CannotSend, match="not a UUID"):
        network.core().verdict("../../healthz").send(None)
    assert not network.attempts


def batch_line(decision_id: str, **changes: Any) -> dict[str, Any]:
    verdict = {**VERDICT, "decision_id": decision_id}
    return {"line": 1, "decision_id": decision_id, "status": 201, "verdict": verdict, **changes}


def ndjson(*documents: Any) -> Answer:
    return answer(b"".join(json.dumps(document).encode() + b"\n" for document in documents), 200)


def test_lines_of_a_batch_that_found_no_database_are_sent_again() -> None:
    ids = [str(uuid4()) for _ in range(3)]
    problem = {"type": "urn:mandate:problem:database-busy", "title": "T", "status": 503, "detail": "d"}
    busy = batch_line(ids[1], verdict=None, problem=problem)
    network = Network(ndjson(batch_line(ids[0]), busy, batch_line(ids[2])), ndjson(batch_line(ids[1])))
    lines = [Line(one, one.encode() + b"\n") for one in ids]
    answers = network.run(network.core().batch(lines))
    assert [one.decision_id for one in answers] == ids
    assert all(one.require().allows for one in answers)
    assert network.attempts[1].request.body == lines[1].body
    never = Network(ndjson(batch_line(ids[1], verdict=None, problem=problem)))
    (late,) = never.run(never.core().batch(lines[1:2]))
    assert len(never.attempts) > 3
    with pytest.raises(Problem, match="503"):
        late.require()


@pytest.mark.parametrize(
    "given",
    [
        ndjson(),
        ndjson(batch_line(DECISION_ID), batch_line(DECISION_ID)),
        ndjson(batch_line(str(uuid4()))),
        ndjson(batch_line(DECISION_ID, verdict=None)),
        ndjson(batch_line(DECISION_ID, verdict=None, problem={"status": "503"})),
        ndjson([]),
        answer(b"{", 200),
    ],
)
def test_a_batch_that_is_answered_otherwise_is_no_answer(given: Answer) -> None:
    network = Network(given)
    with pytest.raises(BadAnswer):
        network.run(network.core().batch([Line(DECISION_ID, b"{}\n")]))


def test_batches_are_cut_by_lines_and_by_bytes() -> None:
    small = [Line("", b"x")] * (LINES_IN_BATCH + 1)
    assert [len(chunk) for chunk in chunks(small)] == [LINES_IN_BATCH, 1]
    large = [Line("", b"x" * 3_000_000)] * 3
    assert [len(chunk) for chunk in chunks(large)] == [1, 1, 1]
    assert list(chunks([])) == []


@pytest.mark.parametrize(
    "address",
    ["", "localhost:3000", "ftp://x", "http://", "http://user:secret@x", "http://x?a=b", "http://x#a"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(CannotSend) as caught:
        Client(address)
    assert "secret" not in caught.value.message


def test_a_token_is_never_shown() -> None:
    with Client("http://localhost:1", "mdt_secret") as client:
        assert "secret" not in repr(client) + str(vars(client)) + repr(client._core)
    for broken in ("", "mdt_secret\n", "mdt secret", "mdt_s\u00e9cret"):
        with pytest.raises(CannotSend) as caught:
            Client("http://localhost:1", broken)
        assert "secret" not in str(caught.value)


def test_the_trace_of_the_current_span_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    span = SimpleNamespace(is_valid=True, trace_id=0xABC, span_id=0xDEF, trace_flags=1)
    current = SimpleNamespace(get_span_context=lambda: span)
    trace = SimpleNamespace(get_current_span=lambda: current)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", trace)
    network = Network(judged())
    network.decide()
    sent = f"00-{'abc':0>32}-{'def':0>16}-01"
    assert network.attempts[0].request.headers["traceparent"] == sent
    own = f"00-{'1' * 32}-{'2' * 16}-00"
    network.run(network.core().decide(GIVEN, own, None))
    assert network.attempts[1].request.headers["traceparent"] == own
    span.is_valid = False
    network.decide()
    assert "traceparent" not in network.attempts[2].request.headers


def test_importing_it_imports_nothing_of_the_service() -> None:
    program = (
        "import sys, mandate.client\n"
        "heavy = {'psycopg', 'pydantic', 'fastapi', 'typer', 'yaml', 'mandate.settings', 'mandate.postgres',"
        " 'mandate.controlplane', 'mandate.cli'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
