"""What a client can ask, as exchanges that somebody else carries out."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from mandate.client import documents, errors
from mandate.client.documents import Attribution, BatchAnswer, Decision, TimelineEntry, Verdict
from mandate.client.errors import BadAnswer, CannotSend, Unavailable
from mandate.client.protocol import PASSING, Answer, Patience, Request, Steps, Wait, encode, exchange, wait

T = TypeVar("T")

JSON = "application/json"
NDJSON = "application/x-ndjson"
# Well below what the service takes: 16 MiB, 100,000 lines.
LINES_IN_BATCH = 2000
BYTES_IN_BATCH = 4 << 20

_TOKEN = re.compile(r"[!-~]+")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Line:
    """One decision of a batch, as it is sent."""

    decision_id: str
    body: bytes


@dataclass(frozen=True)
class Page(Generic[T]):
    """A page of a list, and where the next one begins."""

    rows: list[T]
    cursor: str | None


@dataclass(frozen=True)
class Core:
    """The address and all that is sent with every decision. The token is never shown."""

    base_url: str
    token: str | None = field(repr=False)
    attribution: Attribution
    patience: Patience

    def headers(self) -> dict[str, str]:
        """Those of every request."""
        said = {"Accept": f"{JSON}, {NDJSON}, application/problem+json"}
        return said | ({} if self.token is None else {"Authorization": f"Bearer {self.token}"})

    def decide(
        self, given: Mapping[str, Any], traceparent: str | None, deadline: float | None
    ) -> Steps[Verdict]:
        """Post a decision until it has its verdict."""
        body = self._posted(given)
        request = Request("POST", "/decisions", {}, encode(body), _headers(traceparent))
        decision_id = body["decision_id"]
        try:
            answer = yield from exchange(request, self.patience, self.patience.until(deadline))
        except Unavailable as error:
            error.fields["decision_id"] = decision_id
            raise
        found = documents.verdict(_member(answer, "verdict"))
        if found.decision_id.lower() != decision_id.lower():
            raise BadAnswer(f"asked about decision {decision_id}, answered about {found.decision_id}")
        return found

    def outcome(
        self, decision_id: str | UUID, outcome: str, given: Mapping[str, Any], deadline: float | None
    ) -> Steps[TimelineEntry]:
        """Say what became of a decision."""
        body = encode(_plain({**given, "outcome": outcome}))
        request = Request("POST", f"{_one(decision_id)}/outcome", {}, body, _headers(None))
        answer = yield from exchange(request, self.patience, self.patience.until(deadline))
        return documents.entry(answer.json())

    def decision(self, decision_id: str | UUID) -> Steps[Decision]:
        """One decision."""
        answer = yield from self._get(_one(decision_id), {})
        return documents.decision(answer.json())

    def verdict(self, decision_id: str | UUID) -> Steps[Verdict]:
        """The verdict on a decision."""
        answer = yield from self._get(f"{_one(decision_id)}/verdict", {})
        return documents.verdict(answer.json())

    def decisions(self, filters: Mapping[str, Any], cursor: str | None) -> Steps[Page[Decision]]:
        """A page of decisions."""
        return self._page("/decisions", "decisions", documents.decision, filters, cursor)

    def verdicts(self, filters: Mapping[str, Any], cursor: str | None) -> Steps[Page[Verdict]]:
        """A page of verdicts."""
        return self._page("/verdicts", "verdicts", documents.verdict, filters, cursor)

    def timeline(self, decision_id: str | UUID, cursor: str | None) -> Steps[Page[TimelineEntry]]:
        """A page of a decision's timeline."""
        return self._page(f"{_one(decision_id)}/timeline", "timeline", documents.entry, {}, cursor)

    def line(self, given: Mapping[str, Any]) -> Line:
        """A decision as a line of a batch. Raises CannotSend."""
        body = self._posted(given)
        return Line(body["decision_id"], encode(body) + b"\n")

    def batch(self, lines: Sequence[Line]) -> Steps[list[BatchAnswer]]:
        """Post lines until each has its answer, in their order; past the deadline some may have a 503."""
        end = self.patience.until(None)
        answers: dict[int, BatchAnswer] = {}
        waiting, tries = list(range(len(lines))), 0
        while waiting:
            body = b"".join(lines[place].body for place in waiting)
            request = Request("POST", "/decisions:batch", {}, body, {"Content-Type": NDJSON})
            answer = yield from exchange(request, self.patience, end)
            found = _answers(answer, [lines[place] for place in waiting])
            answers.update(zip(waiting, found, strict=True))
            waiting = [place for place in waiting if _passing(answers[place])]
            tries += 1
            seconds = wait(None, tries, self.patience)
            if waiting and self.patience.clock() + seconds >= end:
                break
            if waiting:
                yield Wait(seconds)
        return [answers[place] for place in range(len(lines))]

    def _posted(self, given: Mapping[str, Any]) -> dict[str, Any]:
        body = _plain({**self.attribution, **given})
        return {**body, "decision_id": body.get("decision_id") or str(uuid4())}

    def _get(self, path: str, query: Mapping[str, str]) -> Steps[Answer]:
        return exchange(Request("GET", path, query), self.patience, self.patience.until(None))

    def _page(
        self,
        path: str,
        name: str,
        read: Callable[[Any], T],
        filters: Mapping[str, Any],
        cursor: str | None,
    ) -> Steps[Page[T]]:
        query = {key: str(value) for key, value in _plain(filters).items()}
        answer = yield from self._get(path, query if cursor is None else {**query, "cursor": cursor})
        rows, following = _member(answer, name), _member(answer, "next_cursor")
        if not isinstance(rows, list) or not isinstance(following, str | None):
            raise BadAnswer(f"a page of {name} is no page")
        return Page([read(row) for row in rows], following)


def chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines in lists that are small enough for one request."""
    chunk = Chunk()
    for line in lines:
        if (full := chunk.add(line)) is not None:
            yield full
    if chunk.lines:
        yield chunk.lines


class Chunk:
    """Lines that wait until there are enough for a request."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._bytes = 0

    def add(self, line: Line) -> list[Line] | None:
        """Take a line; what was there before it if that is full now."""
        full = None
        if len(self.lines) == LINES_IN_BATCH or (
            self.lines and self._bytes + len(line.body) > BYTES_IN_BATCH
        ):
            full, self.lines, self._bytes = self.lines, [], 0
        self.lines.append(line)
        self._bytes += len(line.body)
        return full


def core(base_url: str, token: str | None, timeout: float, deadline: float, attribution: Attribution) -> Core:
    """A core whose parts are what they should be. Raises CannotSend."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise CannotSend("base_url is no http or https address", hint="such as http://localhost:3000")
    if parts.username is not None or parts.password is not None:
        raise CannotSend("base_url has a password in it", hint="pass the token as token=")
    if token is not None and not _TOKEN.fullmatch(token):
        raise CannotSend("the token has characters that no token has", hint="is there a line end in it?")
    if not timeout > 0 or not deadline > 0:
        raise CannotSend("timeout and deadline must be above 0 seconds")
    return Core(base_url.rstrip("/"), token, attribution, Patience(timeout, deadline))


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, with UUIDs and times as text; what is None is left out."""
    return {name: _text(value) for name, value in given.items() if value is not None}


def _text(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise CannotSend("a time has no time zone", hint="datetime.now(UTC) has one")
        return value.isoformat()
    return dict(value) if isinstance(value, Mapping) else value


def _one(decision_id: str | UUID) -> str:
    try:
        return f"/decisions/{UUID(str(decision_id))}"
    except ValueError:
        raise CannotSend(f"{str(decision_id)[:100]!r} is no decision_id: not a UUID") from None


def _headers(traceparent: str | None) -> dict[str, str]:
    trace = current_traceparent() if traceparent is None else traceparent
    if trace is not None and not _TRACEPARENT.fullmatch(trace):
        raise CannotSend("traceparent is no W3C trace context")
    return {"Content-Type": JSON} | ({} if trace is None else {"traceparent": trace})


def current_traceparent() -> str | None:
    """That of the current span where the program uses OpenTelemetry, which is not needed and not imported."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    return (
        f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}" if span.is_valid else None
    )


def _member(answer: Answer, name: str) -> Any:
    document = answer.json()
    if not isinstance(document, dict) or name not in document:
        raise BadAnswer(f"the answer has no {name}", hint="is this Mandate's address?")
    return document[name]


def _answers(answer: Answer, lines: Sequence[Line]) -> list[BatchAnswer]:
    """An answer for each line. Raises BadAnswer where one is missing or is about another decision."""
    try:
        found = [json.loads(line) for line in answer.body.splitlines()]
    except (ValueError, RecursionError):
        raise BadAnswer("answered to a batch with lines that are not JSON") from None
    if len(found) != len(lines):
        raise BadAnswer(f"answered {len(found)} lines to a batch of {len(lines)}")
    return [_answer(document, line) for document, line in zip(found, lines, strict=True)]


def _answer(document: Any, line: Line) -> BatchAnswer:
    if not isinstance(document, dict):
        raise BadAnswer("answered to a batch with a line that is no object")
    if document.get("verdict") is not None:
        verdict = documents.verdict(document["verdict"])
        if verdict.decision_id.lower() != line.decision_id.lower():
            raise BadAnswer(f"asked about decision {line.decision_id}, answered about {verdict.decision_id}")
        return BatchAnswer(line.decision_id, verdict, None)
    refused = document.get("problem")
    if not isinstance(refused, dict) or not isinstance(refused.get("status"), int):
        raise BadAnswer("answered to a decision with neither a verdict nor a problem")
    return BatchAnswer(line.decision_id, None, errors.problem(refused))


def _passing(answer: BatchAnswer) -> bool:
    return answer.problem is not None and answer.problem.status in PASSING
