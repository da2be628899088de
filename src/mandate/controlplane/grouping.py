"""Group commit: decisions that arrive together are written by one statement, in one transaction.

A decision is answered only after its rows are committed. What is posted twice is recorded once: the statement
leaves an existing decision_id alone, so any group may be sent again when nobody knows what became of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mandate.controlplane import rendering
from mandate.controlplane.access import about
from mandate.controlplane.catalogue import Catalogue, Ground
from mandate.controlplane.dialect import DIALECTS, may_be_outdated
from mandate.controlplane.metrics import Metrics
from mandate.controlplane.recording import Columns, Kind, Recording
from mandate.controlplane.store import SchemaChanging, Store
from mandate.errors import DatabaseError, DatabaseUnavailable, DiskFull
from mandate.postgres import arrays
from mandate.postgres.connection import Row
from mandate.postgres.pool import Pool

LANES = 2  # statements under way at a time
PATIENCE_SECONDS = 0.01  # that decisions wait for a statement under way before another one is begun for them
MOST_IN_GROUP = 128
MOST_BYTES_IN_GROUP = 4 * 1024 * 1024


class Stale(Exception):
    """Not written: the decision was judged by something that is not the newest any more."""


class Present(Exception):
    """Not written: the decision_id is there already."""


@dataclass(slots=True)
class Written:
    """JSON texts of what is in the record now."""

    decision: str
    verdict: str


Found = Written | Stale | Present
Answer = Callable[[Written | Exception], None]
_STALE, _PRESENT = Stale(), Present()


@dataclass(slots=True)
class _Waiting:
    recording: Recording
    answer: Answer


class Groups:
    """Writes judged decisions. `pool` is a writing one."""

    def __init__(
        self, pool: Pool, store: Store, catalogue: Catalogue, metrics: Metrics, *, lanes: int = LANES
    ) -> None:
        self._pool = pool
        self._store = store
        self._catalogue = catalogue
        self._metrics = metrics
        self._lanes = lanes
        self._waiting: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._starting = False
        self._held = 0  # decisions in statements under way
        self._sent = 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Decisions that are judged and whose write is not yet answered, batches apart."""
        return self._in_flight

    def submit(self, recording: Recording, answer: Answer) -> None:
        """Have a decision written. `answer` is called once: with what was written, with Stale or Present, or
        with what went wrong."""
        self._in_flight += 1
        self._waiting.append(_Waiting(recording, answer))
        if self._busy == 0 or self._is_worth_another():
            self._begin()
        else:
            self._be_patient()

    def _is_worth_another(self) -> bool:
        """Whether to write beside a statement under way: only as many decisions as that one has.

        A statement costs as much as several decisions, so what arrives meanwhile had better gather.
        """
        return self._busy < self._lanes and not self._starting and len(self._waiting) >= self._held

    def _begin(self) -> None:
        self._busy += 1
        self._starting = True
        task = asyncio.create_task(self._work())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _be_patient(self) -> None:
        if self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE_SECONDS, self._look)

    def _look(self) -> None:
        """Write beside statements that take long, however few decisions wait for them."""
        self._patience = None
        if not self._waiting or self._busy >= self._lanes:
            return
        if asyncio.get_running_loop().time() - self._sent >= PATIENCE_SECONDS:
            self._begin()
        else:
            self._be_patient()

    async def write(self, group: Sequence[Recording], *, whole: bool = True) -> list[Found]:
        """Write recordings of one schema version, no decision_id twice, and say what became of each.

        Raises DatabaseError. Without `whole` the text of a written decision is empty.
        """
        return self._became(group, await self._rows(group, whole=whole))

    async def _rows(self, group: Sequence[Recording], *, whole: bool = True) -> list[Row]:
        statement = DIALECTS[group[0].entry.version].own["record"]
        return await self._pool.rows(statement, parameters(group, whole=whole), _about(group))

    def _became(self, group: Sequence[Recording], rows: Sequence[Row]) -> list[Found]:
        found: list[Found] = [_STALE] * len(group)
        for row in rows:
            found[row["place"] - 1] = _became(group[row["place"] - 1], row)
        self._count(group, found)
        return found

    def _count(self, group: Sequence[Recording], found: Sequence[Found]) -> None:
        self._metrics.groups.observe(len(group))
        written = [each for each, became in zip(group, found, strict=True) if isinstance(became, Written)]
        for (verdict, stage), count in Counter(
            (each.columns.verdict, each.kind.stage) for each in written
        ).items():
            self._metrics.verdict(verdict, stage, count)

    async def _work(self) -> None:
        self._starting = False
        try:
            while self._waiting:
                await self._write_next()
                if self._busy > 1 and len(self._waiting) < self._held:
                    break  # the other one goes on with what gathers meanwhile
        finally:
            # At once: what is submitted before the loop hears of the end of this task must get a new one.
            self._busy -= 1
            if self._waiting:
                self._be_patient()

    async def _write_next(self) -> None:
        group = self._take()
        self._held += len(group)
        try:
            await self._write(group)
        finally:
            self._held -= len(group)

    def _take(self) -> list[_Waiting]:
        """The next group: of one schema version, no decision_id twice, bounded in number and in bytes."""
        group: list[_Waiting] = []
        later: list[_Waiting] = []
        seen: set[str] = set()
        size = 0
        while self._waiting and len(group) < MOST_IN_GROUP and size < MOST_BYTES_IN_GROUP:
            waiting = self._waiting.popleft()
            decision_id = waiting.recording.posted.decision_id
            fits = not group or waiting.recording.entry.version == group[0].recording.entry.version
            if fits and decision_id not in seen:
                group.append(waiting)
                seen.add(decision_id)
                size += len(waiting.recording.posted.body)
            else:
                later.append(waiting)
        self._waiting.extendleft(reversed(later))
        # Two groups that share decisions lock them in the same order.
        group.sort(key=lambda waiting: waiting.recording.posted.decision_id)
        return group

    async def _write(self, group: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        self._sent = loop.time()
        try:
            rows = await self._rows([waiting.recording for waiting in group])
        except DatabaseError as error:
            await self._refused(group, error)
        except Exception as error:  # noqa: BLE001 - every caller must hear of it
            self._give(group, error)
        else:
            if self._waiting:  # the next statement is on its way before these are answered
                loop.call_soon(self._settle, group, rows)
            else:
                self._settle(group, rows)

    def _settle(self, group: Sequence[_Waiting], rows: Sequence[Row]) -> None:
        self._in_flight -= len(group)
        found = self._became([waiting.recording for waiting in group], rows)
        for waiting, became in zip(group, found, strict=True):
            waiting.answer(became)

    async def _refused(self, group: Sequence[_Waiting], error: DatabaseError) -> None:
        """Nothing of the group was written. In another dialect, or each alone, most of it may be."""
        version = group[0].recording.entry.version
        try:
            if may_be_outdated(error.sqlstate) and await self._store.schema_version() != version:
                self._catalogue.forget()
                self._give(group, Stale())
                return
        except DatabaseError as later:
            error = later
        if len(group) == 1 or is_hopeless(error):
            changing = may_be_outdated(error.sqlstate)
            self._give(group, SchemaChanging(error.message, **error.fields) if changing else error)
            return
        for waiting in group:
            await self._write([waiting])

    def _give(self, group: Sequence[_Waiting], error: Exception) -> None:
        self._in_flight -= len(group)
        for waiting in group:
            waiting.answer(error)


def is_hopeless(error: DatabaseError) -> bool:
    """Whether one by one would fare no better: PostgreSQL is away, full, or was told to stop waiting."""
    return isinstance(error, DatabaseUnavailable | DiskFull) or error.sqlstate == "57014"


_PLAIN = Columns._fields.index("body")  # the columns before it: short texts, none of them null
_FEW_KINDS = 16  # what has more of them is not met again, and would be much to remember
_BETWEEN = "\1"  # two JSON texts, which have no such character in them


def parameters(recordings: Sequence[Recording], *, whole: bool = True) -> dict[str, str]:
    """The arrays of record.sql: a row for each recording, for each kind of them, and for what judged them."""
    kinds: dict[Kind, int] = {}
    kind = [str(kinds.setdefault(each.kind, len(kinds) + 1)) for each in recordings]
    rows = [each.columns for each in recordings]
    plain = zip(Columns._fields[:_PLAIN], arrays.columns([row[:_PLAIN] for row in rows]), strict=True)
    return {
        **(_shared(tuple(kinds)) if len(kinds) <= _FEW_KINDS else _shared.__wrapped__(tuple(kinds))),
        **dict(plain),
        "body": _BETWEEN.join([row.body for row in rows]),
        "details": _BETWEEN.join([row.details for row in rows]),
        "recorded": arrays.literal([each.recorded for each in recordings]),
        "kind": arrays.literal(kind),
        "whole": "true" if whole else "false",
    }


@lru_cache(maxsize=256)
def _shared(kinds: Sequence[Kind]) -> Mapping[str, str]:
    """The arrays of what recordings have in common; most groups have what another one had."""
    grounds = list(dict.fromkeys(each.ground for each in kinds))
    columns: dict[str, Iterable[str | None]] = {
        "k_entry": [str(grounds.index(each.ground) + 1) for each in kinds],
        **{
            f"e_{name}": values
            for name, values in zip(Ground._fields, zip(*grounds, strict=True), strict=True)
        },
    }
    for name in ("organization_id", "domain", "domain_key", "snapshot_id"):
        columns[f"k_{name}"] = [getattr(each.ground, name) for each in kinds]
    for name in ("intent", "stage", "spec_id", "spec_version", "scope_id", "owning_team"):
        columns[f"k_{name}"] = [getattr(each, name) for each in kinds]
    return {name: arrays.literal(values) for name, values in columns.items()}


def _about(group: Iterable[Recording]) -> dict[str, str]:
    return about.organizations(each.entry.organization_id for each in group)


def _became(recording: Recording, row: Row) -> Found:
    if not row["fresh"]:
        return _STALE
    if not row["written"]:
        return _PRESENT
    context, scope = row["context"], row["scope"]
    decision = "" if context is None else rendering.decision(recording, context, scope)
    return Written(decision, rendering.verdict(recording))
