"""POST /decisions:batch: NDJSON in, NDJSON out, a line for a line, each of them all or nothing.

Lines are judged and written while the rest still arrives. Answers wait in memory for whoever sends all before
he reads; both sides are bounded by the size of a batch.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mandate.controlplane import intake, logs
from mandate.controlplane.api import bodies
from mandate.controlplane.api.guard import exchange, note
from mandate.controlplane.api.problems import INTERNAL, Problem
from mandate.controlplane.api.routing import Services
from mandate.controlplane.api.trouble import problem_of
from mandate.controlplane.intake import Posted
from mandate.controlplane.recorder import Recorded

MEDIA_TYPE = "application/x-ndjson"
LINES_IN_CHUNK = 250
CHUNKS_AHEAD = 2
MAX_LINES = 100_000
_LINES_AT_A_TIME = 25


@dataclass(slots=True)
class _Line:
    number: int
    posted: Posted | None
    refused: Exception | None


class BatchResponse(Response):
    """The answer to a batch, sent while it is being worked on."""

    def __init__(self, services: Services, request: Request) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._services = services
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(receive, work))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while (chunk := await work.get()) is not None:
                await send({"type": "http.response.body", "body": await chunk, "more_body": True})
            await reader
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reader.cancel()

    async def _read(self, receive: Receive, work: asyncio.Queue[asyncio.Task[bytes] | None]) -> None:
        """Start the work on each chunk as it is complete, a few at a time."""
        slots = asyncio.Semaphore(CHUNKS_AHEAD)
        traceparent = intake.read_traceparent(self._request.headers.get("traceparent"))
        try:
            async for chunk in _chunks(receive, traceparent):
                await slots.acquire()
                task = asyncio.create_task(self._decide(chunk))
                task.add_done_callback(lambda _task: slots.release())
                work.put_nowait(task)
        finally:
            work.put_nowait(None)

    async def _decide(self, chunk: list[_Line]) -> bytes:
        posted = [line.posted for line in chunk if line.posted is not None]
        answers = iter(await self._services.recorder.record_many(posted))
        lines = [self._line(line, line.refused if line.posted is None else next(answers)) for line in chunk]
        self._log(chunk, Counter(str(status) for status, _ in lines))
        return b"".join(body for _, body in lines)

    def _line(self, line: _Line, answer: Recorded | Exception | None) -> tuple[int, bytes]:
        """The status of a line, and the line that answers it."""
        decision_id = f'"{line.posted.decision_id}"' if line.posted else "null"
        head = f'{{"line": {line.number}, "decision_id": {decision_id}, '
        if isinstance(answer, Recorded):
            status = 201 if answer.created else 200
            return status, f'{head}"status": {status}, "verdict": {answer.verdict}}}\n'.encode()
        assert answer is not None
        problem = problem_of(answer)
        status = problem.kind.status
        if problem.kind is INTERNAL or status == 503:
            note(self._request, problem, answer)
        document = json.dumps(problem.document(exchange(self._request).request_id), ensure_ascii=False)
        return status, f'{head}"status": {status}, "problem": {document}}}\n'.encode()

    def _log(self, chunk: list[_Line], statuses: Counter[str]) -> None:
        """Which decisions were part of this request: the line of the request itself names none."""
        current = exchange(self._request)
        fields: dict[str, object] = {
            "request_id": current.request_id,
            "lines": [chunk[0].number, chunk[-1].number],
            "statuses": dict(sorted(statuses.items())),
        }
        if current.token_id:
            fields["token_id"] = current.token_id
        fields["decision_ids"] = [line.posted.decision_id for line in chunk if line.posted is not None]
        logs.write("batch", fields)


async def _chunks(receive: Receive, traceparent: str | None) -> AsyncIterator[list[_Line]]:
    chunk: list[_Line] = []
    async for lines in _numbered(receive):
        for number, raw in lines:
            chunk.append(_parsed(number, raw, traceparent))
            if len(chunk) == LINES_IN_CHUNK:
                yield chunk
                chunk = []
            elif len(chunk) % _LINES_AT_A_TIME == 0:
                await asyncio.sleep(0)  # let others have their turn
    if chunk:
        yield chunk


def _parsed(number: int, raw: bytes | Problem, traceparent: str | None) -> _Line:
    if isinstance(raw, Problem):
        return _Line(number, None, raw)
    try:
        return _Line(number, intake.read_decision(raw, traceparent), None)
    except (intake.MalformedBody, intake.InvalidDecision) as error:
        return _Line(number, None, error)


_Numbered = list[tuple[int, bytes | Problem]]


async def _numbered(receive: Receive) -> AsyncIterator[_Numbered]:
    """The lines that are not blank, as they arrive; a Problem where one or the whole is too large.

    What a connection that ends too early leaves behind is no line.
    """
    rest, size, count, more = b"", 0, 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body: bytes = message.get("body", b"")[: bodies.MAX_BATCH + 1 - size]
        size += len(body)
        over = size > bodies.MAX_BATCH
        more = message.get("more_body", False)
        lines = (rest + body).split(b"\n")
        rest = lines.pop() if more or over else b""
        over = over or count + len(lines) > MAX_LINES
        wanted = enumerate(lines[: MAX_LINES - count], count + 1)
        found: _Numbered = [(number, _sized(line)) for number, line in wanted if line.strip()]
        count += len(lines)
        if over:
            yield [*found, (count + 1, bodies.too_large(bodies.MAX_BATCH, MAX_LINES))]
            return
        yield found


def _sized(line: bytes) -> bytes | Problem:
    return line if len(line) <= bodies.MAX_BODY else bodies.too_large(bodies.MAX_BODY)
