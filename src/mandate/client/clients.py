"""The two clients. What is asked is in core, how in protocol: here is only which of it is awaited."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar, Unpack
from uuid import UUID

from mandate.client.core import Chunk, Page, chunks, core
from mandate.client.documents import (
    Attribution,
    BatchAnswer,
    Decision,
    DecisionFields,
    Filters,
    OutcomeFields,
    TimelineEntry,
    Verdict,
)
from mandate.client.protocol import Steps
from mandate.client.transport import Awaiting, Blocking

T = TypeVar("T")

# Longer than the service takes to say that it has no database.
TIMEOUT_SECONDS = 10.0
DEADLINE_SECONDS = 30.0


class Client:
    """Asks Mandate and waits. May be used by many threads; close it, or use it in a `with` block.

    `token` is one of `mandate token create`; it is neither shown nor logged. `timeout` is for one attempt,
    `deadline` for all of them together, in seconds. organization_id, domain, actor and scope are those of
    every decision that does not say its own.

    Whatever is sent may be sent again, for as long as the deadline allows, when nobody answers or the answer
    is 502, 503 or 504: a decision has the same decision_id each time, and so one verdict. Nothing else is
    tried again.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        deadline: float = DEADLINE_SECONDS,
        **attribution: Unpack[Attribution],
    ) -> None:
        self._core = core(base_url, token, timeout, deadline, attribution)
        self._transport = Blocking(self._core)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._core.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._transport.close()

    def decide(
        self,
        *,
        traceparent: str | None = None,
        deadline: float | None = None,
        **decision: Unpack[DecisionFields],
    ) -> Verdict:
        """Post a decision and wait for its verdict, whatever that is: `.require()` raises Blocked or Paused.

        Raises Unavailable when there was none in time (NotTrusted at once, for a certificate), Problem when
        the decision is refused, BadAnswer, CannotSend. `traceparent` is a W3C trace context; that of the
        current span where OpenTelemetry is in use.
        """
        return self._transport.run(self._core.decide(decision, traceparent, deadline))

    def outcome(
        self,
        decision_id: str | UUID,
        outcome: str,
        *,
        deadline: float | None = None,
        **said: Unpack[OutcomeFields],
    ) -> TimelineEntry:
        """Append what became of a decision to its timeline. The same again is there once."""
        return self._transport.run(self._core.outcome(decision_id, outcome, said, deadline))

    def decision(self, decision_id: str | UUID) -> Decision:
        """One decision. Raises NotFound, and as `decide`."""
        return self._transport.run(self._core.decision(decision_id))

    def verdict(self, decision_id: str | UUID) -> Verdict:
        """The verdict on a decision. Raises NotFound, and as `decide`."""
        return self._transport.run(self._core.verdict(decision_id))

    def decisions(self, **filters: Unpack[Filters]) -> Iterator[Decision]:
        """Decisions, newest first, page by page as they are asked for; `limit` is the size of a page."""
        return self._rows(lambda cursor: self._core.decisions(filters, cursor))

    def verdicts(self, **filters: Unpack[Filters]) -> Iterator[Verdict]:
        """Verdicts, newest first."""
        return self._rows(lambda cursor: self._core.verdicts(filters, cursor))

    def timeline(self, decision_id: str | UUID) -> Iterator[TimelineEntry]:
        """What happened to a decision, oldest first."""
        return self._rows(lambda cursor: self._core.timeline(decision_id, cursor))

    def batch(self, decisions: Iterable[DecisionFields]) -> Iterator[BatchAnswer]:
        """Post any number of decisions, some thousands at a time; an answer for each, in their order.

        Raises Unavailable and BadAnswer; what is wrong with one decision is in its answer.
        """
        for chunk in chunks(self._core.line(given) for given in decisions):
            yield from self._transport.run(self._core.batch(chunk))

    def _rows(self, page: Callable[[str | None], Steps[Page[T]]]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            found = self._transport.run(page(cursor))
            yield from found.rows
            cursor = found.cursor
            if cursor is None:
                return


class AsyncClient:
    """The same for asyncio: what Client returns is awaited, what it iterates over is iterated with `async
    for`.

    Belongs to one event loop; close it, or use it in an `async with` block. A cancelled call sends nothing
    more.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        deadline: float = DEADLINE_SECONDS,
        **attribution: Unpack[Attribution],
    ) -> None:
        self._core = core(base_url, token, timeout, deadline, attribution)
        self._transport = Awaiting(self._core)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._core.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._transport.close()

    async def decide(
        self,
        *,
        traceparent: str | None = None,
        deadline: float | None = None,
        **decision: Unpack[DecisionFields],
    ) -> Verdict:
        """As Client.decide."""
        return await self._transport.run(self._core.decide(decision, traceparent, deadline))

    async def outcome(
        self,
        decision_id: str | UUID,
        outcome: str,
        *,
        deadline: float | None = None,
        **said: Unpack[OutcomeFields],
    ) -> TimelineEntry:
        """As Client.outcome."""
        return await self._transport.run(self._core.outcome(decision_id, outcome, said, deadline))

    async def decision(self, decision_id: str | UUID) -> Decision:
        """As Client.decision."""
        return await self._transport.run(self._core.decision(decision_id))

    async def verdict(self, decision_id: str | UUID) -> Verdict:
        """As Client.verdict."""
        return await self._transport.run(self._core.verdict(decision_id))

    def decisions(self, **filters: Unpack[Filters]) -> AsyncIterator[Decision]:
        """As Client.decisions."""
        return self._rows(lambda cursor: self._core.decisions(filters, cursor))

    def verdicts(self, **filters: Unpack[Filters]) -> AsyncIterator[Verdict]:
        """As Client.verdicts."""
        return self._rows(lambda cursor: self._core.verdicts(filters, cursor))

    def timeline(self, decision_id: str | UUID) -> AsyncIterator[TimelineEntry]:
        """As Client.timeline."""
        return self._rows(lambda cursor: self._core.timeline(decision_id, cursor))

    async def batch(
        self, decisions: Iterable[DecisionFields] | AsyncIterable[DecisionFields]
    ) -> AsyncIterator[BatchAnswer]:
        """As Client.batch; takes what is iterated either way."""
        chunk = Chunk()
        async for given in _either(decisions):
            if (full := chunk.add(self._core.line(given))) is not None:
                for answer in await self._transport.run(self._core.batch(full)):
                    yield answer
        for answer in await self._transport.run(self._core.batch(chunk.lines)):
            yield answer

    async def _rows(self, page: Callable[[str | None], Steps[Page[T]]]) -> AsyncIterator[T]:
        cursor: str | None = None
        while True:
            found = await self._transport.run(page(cursor))
            for row in found.rows:
                yield row
            cursor = found.cursor
            if cursor is None:
                return


async def _either(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
