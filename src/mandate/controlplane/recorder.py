"""Group commit: decisions that arrive together are written by one statement, in one transaction.

A decision is answered only after its rows are committed. What is posted twice is recorded once: the statement
leaves an existing decision_id alone, so any group may be sent again when nobody knows what became of it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from mandate.controlplane.access import about
from mandate.controlplane.access.principal import current
from mandate.controlplane.catalogue import Catalogue, Entry, Judge, Key
from mandate.controlplane.dialect import DIALECTS, may_be_outdated
from mandate.controlplane.intake import Posted
from mandate.controlplane.metrics import Metrics
from mandate.controlplane.recording import (
    UNATTRIBUTED,
    Recording,
    given_attribution,
    judged,
    place,
)
from mandate.controlplane.store import NOBODY, SchemaChanging, Store
from mandate.errors import DatabaseError, DatabaseUnavailable, DiskFull, MandateError
from mandate.postgres import arrays
from mandate.postgres.connection import Row
from mandate.postgres.pool import Pool

LANES = 2  # statements under way at a time
MOST_IN_GROUP = 128
MOST_BYTES_IN_GROUP = 4 * 1024 * 1024
_ATTEMPTS = 8


class Refused(MandateError):
    """A decision that cannot be recorded as it is; the message says why."""


class UnknownDomain(Refused):
    """The organization or the domain does not exist."""

    code = "unknown-domain"


class NoActiveSpec(Refused):
    """No active spec governs the intent at that stage."""

    code = "no-active-spec"


class NoPolicySnapshot(Refused):
    """The domain has no policy snapshot yet."""

    code = "no-policy-snapshot"


class OutsideToken(Refused):
    """The decision is not of the organization and the domains that the token is for."""

    code = "outside-token"


class DecisionConflict(Refused):
    """The decision_id is taken by a decision that says something else."""

    code = "decision-conflict"


class CatalogueMoving(DatabaseError):
    """Specs, scopes or snapshots changed each time the decision was about to be written."""

    code = "catalogue-moving"


@dataclass(frozen=True, slots=True)
class Recorded:
    """JSON texts of what is in the record now; `created` is False when it was there before."""

    created: bool
    decision: str
    verdict: str


class _Stale(Exception):
    """Not written: the decision was judged by something that is not the newest any more."""


class _Present(Exception):
    """Not written: the decision_id is there already."""


@dataclass(slots=True)
class _Waiting:
    recording: Recording
    answer: asyncio.Future[tuple[str, str]]


class Recorder:
    """Judges posted decisions and writes them. `pool` is a writing one."""

    def __init__(
        self, pool: Pool, store: Store, catalogue: Catalogue, metrics: Metrics, *, lanes: int = LANES
    ) -> None:
        self._pool = pool
        self._store = store
        self._catalogue = catalogue
        self._lanes = lanes
        self._waiting: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._metrics = metrics
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Decisions that are judged and whose write is not yet answered, batches apart."""
        return self._in_flight

    async def record(self, posted: Posted) -> Recorded:
        """Judge and write one decision, or find it recorded already.

        Raises Refused, DatabaseError (nothing was written, or nobody knows: post it again) or NotMandate.
        """
        fresh = False
        for _attempt in range(_ATTEMPTS):
            began = perf_counter()
            recording = await self._judged(posted, fresh=fresh)
            judged_at = perf_counter()
            self._metrics.judge.observe(judged_at - began)
            waiting = _Waiting(recording, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            self._start()
            self._in_flight += 1
            try:
                decision, verdict = await waiting.answer
                self._metrics.write.observe(perf_counter() - judged_at)
            except _Stale:
                fresh = True
            except _Present:
                (found,) = await self._present([recording])
                if isinstance(found, DecisionConflict):
                    raise found from None
                if found is not None:
                    return found
                if not current().unrestricted:  # it is there, and not for this principal to see
                    raise _conflict(posted.decision_id) from None
            else:
                return Recorded(True, decision, verdict)
            finally:
                self._in_flight -= 1
        raise CatalogueMoving("specs, scopes or snapshots change faster than a decision can be written")

    async def record_many(self, posted: Sequence[Posted]) -> list[Recorded | Exception]:
        """The same for many, in one transaction if nothing is in the way; an answer for each, in order."""
        answers: list[Recorded | Exception | None] = [None] * len(posted)
        group: dict[str, tuple[int, Recording]] = {}
        again: list[tuple[int, Recording]] = []
        for at, each in enumerate(posted):
            try:
                found = at, await self._judged(each, fresh=False)
            except MandateError as error:
                answers[at] = error
            else:
                if group.setdefault(each.decision_id, found) is not found:
                    again.append(found)
        try:
            for at, recorded in await self._write_many([*group.values()]):
                answers[at] = recorded
            again += [found for found in group.values() if answers[found[0]] is None]
            present = await self._present([found for _, found in again])
            for (at, _), answer in zip(again, present, strict=True):
                answers[at] = answer
        except DatabaseError as error:
            return [error if answer is None else answer for answer in answers]
        # Stale, or in the way of the others: each by itself, and with whatever else arrives.
        rest = [at for at, answer in enumerate(answers) if answer is None]
        alone = await asyncio.gather(*(self._alone(posted[at]) for at in rest))
        for at, found_alone in zip(rest, alone, strict=True):
            answers[at] = found_alone
        return [answer for answer in answers if answer is not None]

    async def _alone(self, posted: Posted) -> Recorded | Exception:
        try:
            return await self.record(posted)
        except Exception as error:  # noqa: BLE001 - the answer to its line
            return error

    async def _write_many(self, group: Sequence[tuple[int, Recording]]) -> list[tuple[int, Recorded]]:
        """What is new and could be written together. Raises DatabaseError where trying again is no use."""
        ordered = sorted(group, key=lambda each: each[1].posted.decision_id)
        versions = {found.entry.version for _, found in ordered}
        if len(versions) != 1:
            return []
        params = parameters([found for _, found in ordered])
        try:
            rows = await self._pool.rows(
                DIALECTS[versions.pop()].own["record"], params, _about(found for _, found in ordered)
            )
        except DatabaseError as error:
            if _is_hopeless(error):
                raise
            return []
        self._count([found for _, found in ordered], rows)
        return [
            (ordered[row["place"]][0], Recorded(True, row["decision"], row["verdict"]))
            for row in rows
            if row["decision"] is not None
        ]

    async def _judged(self, posted: Posted, *, fresh: bool) -> Recording:
        key, complete = place(posted), given_attribution(posted) is None
        if current().organization_id not in (None, key.organization_id):
            raise _outside()
        entry = None if fresh else self._catalogue.get(key)
        known = entry is not None
        if entry is None:
            entry = await self._load(key)
        if not await self._allowed(entry):
            if known:
                return await self._judged(posted, fresh=True)
            raise _outside()
        judge = self._judge(posted, entry) if complete else None
        if (complete and judge is None) or entry.snapshot_id is None:
            if known:  # the database may know better by now
                return await self._judged(posted, fresh=True)
            raise _missing(posted, entry)
        return judged(posted, entry, judge)

    @staticmethod
    def _judge(posted: Posted, entry: Entry) -> Judge | None:
        return entry.judge(posted.intent, posted.stage) if posted.intent and posted.stage else None

    async def _load(self, key: Key) -> Entry:
        """The entry of a domain. Whoever may use some domains only learns of no other whether it exists."""
        entry = await self._catalogue.load(key)
        if entry is None and current().domains is not None:
            raise _outside()
        return entry or await self._reserve(key)

    async def _allowed(self, entry: Entry) -> bool:
        """Whether the principal of this request may post to the domain of an entry."""
        reach = await self._store.reach()
        return reach is None or reach.holds(entry.organization_id, entry.domain)

    async def _reserve(self, key: Key) -> Entry:
        """The entry of the place for what is not attributed, made when it is first needed."""
        if key.domain == UNATTRIBUTED:
            params = {
                "organization_id": key.organization_id,
                "nobody": NOBODY,
                "name": "Unattributed (no organization was given)",
                "domain": UNATTRIBUTED,
                "snapshot_id": str(uuid5(NAMESPACE_URL, f"urn:mandate:unattributed:{key.organization_id}")),
            }
            version = await self._store.schema_version()
            if version is not None:
                whose = about.organizations([key.organization_id, NOBODY])
                await self._pool.rows(DIALECTS[version].own["reserve"], params, whose)
                entry = await self._catalogue.load(key)
                if entry is not None:
                    return entry
        raise UnknownDomain(f"there is no domain {key.domain!r} in organization {key.organization_id}")

    async def _present(self, recordings: Sequence[Recording]) -> list[Recorded | DecisionConflict | None]:
        """What is recorded under the same ids; None where nothing is."""
        answers: list[Recorded | DecisionConflict | None] = [None] * len(recordings)
        if recordings:
            for row in await self._store.shared("recorded", _asked(recordings)):
                if row["same"] and row["verdict"] is not None:
                    answers[row["place"]] = Recorded(False, row["decision"], row["verdict"])
                else:
                    answers[row["place"]] = _conflict(recordings[row["place"]].posted.decision_id)
        return answers

    def _count(self, group: Sequence[Recording], rows: Sequence[Row]) -> None:
        self._metrics.groups.observe(len(group))
        for row in rows:
            if row["decision"] is not None:
                columns = group[row["place"]].columns
                self._metrics.verdicts.labels(columns["verdict"], columns["stage"]).inc()

    def _start(self) -> None:
        if len(self._running) < self._lanes:
            task = asyncio.create_task(self._work())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _work(self) -> None:
        while self._waiting:
            await self._write(self._take())

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
        version = group[0].recording.entry.version
        try:
            params = parameters([waiting.recording for waiting in group])
            whose = _about(waiting.recording for waiting in group)
            rows = await self._pool.rows(DIALECTS[version].own["record"], params, whose)
        except DatabaseError as error:
            await self._refused(group, version, error)
        except Exception as error:  # noqa: BLE001 - every caller must hear of it
            _give(group, error)
        else:
            self._count([waiting.recording for waiting in group], rows)
            for row in rows:
                _settle(group[row["place"]].answer, row)

    async def _refused(self, group: Sequence[_Waiting], version: int, error: DatabaseError) -> None:
        """Nothing of the group was written. In another dialect, or each alone, most of it may be."""
        try:
            if may_be_outdated(error.sqlstate) and await self._store.schema_version() != version:
                self._catalogue.forget()
                _give(group, _Stale())
                return
        except DatabaseError as later:
            error = later
        if len(group) == 1 or _is_hopeless(error):
            changing = may_be_outdated(error.sqlstate)
            _give(group, SchemaChanging(error.message, **error.fields) if changing else error)
            return
        for waiting in group:
            await self._write([waiting])


def _is_hopeless(error: DatabaseError) -> bool:
    """Whether one by one would fare no better: PostgreSQL is away, full, or was told to stop waiting."""
    return isinstance(error, DatabaseUnavailable | DiskFull) or error.sqlstate == "57014"


_ASKED = ("decision_id", "organization_id", "domain", "intent", "stage", "actor", "target", "body")


def _asked(recordings: Sequence[Recording]) -> dict[str, str]:
    """The arrays of recorded.sql."""
    columns = {name: [each.columns[name] for each in recordings] for name in _ASKED}
    posted = [each.posted for each in recordings]
    given = [given_attribution(each) for each in posted]
    columns["place"] = [str(at) for at in range(len(posted))]
    columns["timestamp"] = [each.timestamp.isoformat() if each.timestamp else None for each in posted]
    columns["text"] = [each.text for each in posted]
    columns["given"] = [json.dumps(each) if each else None for each in given]
    return {name: arrays.literal(values) for name, values in columns.items()}


def parameters(recordings: Sequence[Recording]) -> dict[str, str]:
    """The arrays of record.sql: a row for each recording, and one for each entry that they were judged by."""
    entries: dict[int, tuple[int, Entry]] = {}
    judged_by = []
    for each in recordings:
        at, _ = entries.setdefault(id(each.entry), (len(entries), each.entry))
        judged_by.append(str(at))
    known = [entry for _, entry in entries.values()]
    columns: dict[str, list[str | None]] = {
        "place": [str(at) for at in range(len(recordings))],
        "judged_by": [*judged_by],
        "k_place": [str(at) for at in range(len(known))],
        "k_organization_id": [entry.organization_id for entry in known],
        "k_domain": [entry.domain for entry in known],
        "k_domain_key": [entry.domain_key for entry in known],
        "k_snapshot_id": [entry.snapshot_id for entry in known],
        "k_scopes": [str(entry.scopes) for entry in known],
        "k_specs": [str(entry.specs) for entry in known],
    }
    for name in recordings[0].columns:
        columns[name] = [each.columns[name] for each in recordings]
    return {name: arrays.literal(values) for name, values in columns.items()}


def _about(recordings: Iterable[Recording]) -> dict[str, str]:
    return about.organizations(each.entry.organization_id for each in recordings)


def _outside() -> OutsideToken:
    return OutsideToken("the decision is not of the organization and the domains that the token is for")


def _conflict(decision_id: str) -> DecisionConflict:
    return DecisionConflict(f"decision {decision_id} is recorded with another body")


def _missing(posted: Posted, entry: Entry) -> Refused:
    if entry.snapshot_id is None:
        return NoPolicySnapshot(f"domain {entry.domain} has no policy snapshot")
    return NoActiveSpec(
        f"no active spec of domain {entry.domain} governs intent {posted.intent!r} at stage {posted.stage}"
    )


def _settle(answer: asyncio.Future[tuple[str, str]], row: Mapping[str, Any]) -> None:
    if answer.done():
        return
    if not row["fresh"]:
        answer.set_exception(_Stale())
    elif row["decision"] is None:
        answer.set_exception(_Present())
    else:
        answer.set_result((row["decision"], row["verdict"]))


def _give(group: Sequence[_Waiting], error: Exception) -> None:
    for waiting in group:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
