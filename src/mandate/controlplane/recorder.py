"""From a posted decision to what is in the record about it: judged, written, or found there already."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from uuid import NAMESPACE_URL, uuid5

from mandate.controlplane.access import about
from mandate.controlplane.access.principal import Principal, current
from mandate.controlplane.catalogue import Catalogue, Entry, Judge, Key
from mandate.controlplane.dialect import DIALECTS
from mandate.controlplane.grouping import LANES, Groups, Present, Stale, Written, is_hopeless
from mandate.controlplane.intake import Posted
from mandate.controlplane.metrics import Metrics
from mandate.controlplane.recording import (
    UNATTRIBUTED,
    Recording,
    given_attribution,
    judged,
    place,
)
from mandate.controlplane.store import NOBODY, Store
from mandate.errors import DatabaseError, MandateError
from mandate.postgres import arrays
from mandate.postgres.pool import Pool

_ATTEMPTS = 8
_JUDGED_AT_A_TIME = 25


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


@dataclass(slots=True)  # like Written: frozen, they would take three times as long to make
class Recorded:
    """JSON texts of what is in the record now; `created` is False when it was there before."""

    created: bool
    decision: str
    verdict: str


class Recorder:
    """Judges posted decisions and has them written. `pool` is a writing one."""

    def __init__(
        self, pool: Pool, store: Store, catalogue: Catalogue, metrics: Metrics, *, lanes: int = LANES
    ) -> None:
        self._pool = pool
        self._store = store
        self._catalogue = catalogue
        self._metrics = metrics
        self.groups = Groups(pool, store, catalogue, metrics, lanes=lanes)

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
            found = await self._written(recording)
            if isinstance(found, Written):
                self._metrics.write.observe(perf_counter() - judged_at)
                return Recorded(True, found.decision, found.verdict)
            if isinstance(found, Stale):
                fresh = True
                continue
            if not isinstance(found, Present):
                raise found
            (present,) = await self._present([recording])
            if isinstance(present, DecisionConflict):
                raise present
            if present is not None:
                return present
            if not current().unrestricted:  # it is there, and not for this principal to see
                raise _conflict(posted.decision_id)
        raise CatalogueMoving("specs, scopes or snapshots change faster than a decision can be written")

    async def _written(self, recording: Recording) -> Written | Exception:
        answer: asyncio.Future[Written | Exception] = asyncio.get_running_loop().create_future()

        def settle(found: Written | Exception) -> None:
            if not answer.done():
                answer.set_result(found)

        self.groups.submit(recording, settle)
        return await answer

    def judge_now(self, posted: Posted, principal: Principal) -> Recording | None:
        """Judge a decision by what is in memory. None: `record` has to look further, or refuses it."""
        key = place(posted)
        entry = self._catalogue.get(key)
        if entry is None or entry.snapshot_id is None or not posted.complete:
            return None
        reach = self._store.known_reach(principal)
        if principal.organization_id is not None:
            if principal.organization_id != key.organization_id or reach is None:
                return None
            if not reach.holds(entry.organization_id, entry.domain):
                return None
        judge = self._judge(posted, entry)
        return None if judge is None else judged(posted, entry, judge)

    async def record_many(self, posted: Sequence[Posted]) -> list[Recorded | Exception]:
        """The same for many, in one transaction if nothing is in the way; an answer for each, in order.

        The text of a decision that is created may be empty.
        """
        principal = current()
        answers: list[Recorded | Exception | None] = [None] * len(posted)
        group: dict[str, tuple[int, Recording]] = {}
        again: list[tuple[int, Recording]] = []
        for at, each in enumerate(posted):
            if at % _JUDGED_AT_A_TIME == 0:
                await asyncio.sleep(0)  # let others have their turn
            try:
                judged_now = self.judge_now(each, principal)
                found = at, judged_now or await self._judged(each, fresh=False)
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
        try:
            found = await self.groups.write([recording for _, recording in ordered], whole=False)
        except DatabaseError as error:
            if is_hopeless(error):
                raise
            return []
        return [
            (at, Recorded(True, became.decision, became.verdict))
            for (at, _), became in zip(ordered, found, strict=True)
            if isinstance(became, Written)
        ]

    async def _judged(self, posted: Posted, *, fresh: bool) -> Recording:
        key, complete = place(posted), posted.complete
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


_ASKED: Sequence[tuple[Callable[[Recording], object], Sequence[str]]] = (
    (lambda each: each.columns, ("decision_id", "actor", "target", "body")),
    (lambda each: each.kind, ("intent", "stage")),
    (lambda each: each.kind.ground, ("organization_id", "domain")),
)


def _asked(recordings: Sequence[Recording]) -> dict[str, str]:
    """The arrays of recorded.sql."""
    columns: dict[str, list[str | None]] = {
        name: [getattr(values(each), name) for each in recordings]
        for values, names in _ASKED
        for name in names
    }
    posted = [each.posted for each in recordings]
    given = [given_attribution(each) for each in posted]
    columns["place"] = [str(at) for at in range(len(posted))]
    columns["timestamp"] = [each.timestamp.isoformat() if each.timestamp else None for each in posted]
    columns["text"] = [each.text for each in posted]
    columns["given"] = [json.dumps(each) if each else None for each in given]
    return {name: arrays.literal(values) for name, values in columns.items()}


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
