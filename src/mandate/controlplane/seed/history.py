"""A history: its world, and its events as COPY blocks of bounded size, in order of time."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import shake_128
from itertools import accumulate
from random import Random

from mandate.controlplane.seed.cases import Case, per_pool, pool
from mandate.controlplane.seed.dialect import DECISIONS, TIMELINE, VERDICTS, Dialect, Version
from mandate.controlplane.seed.parameters import Parameters
from mandate.controlplane.seed.world import EPOCHS, World, build

BLOCK_DECISIONS = 5_000
# Outcomes come up to this long after their decision, and belong to the history.
_LAST_HOURS_MS = 3 * 3_600_000
_DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_SECONDS = tuple(f"{ms // 1000:02}.{ms % 1000:03}" for ms in range(_MINUTE_MS))
_UUID_HEX = 32
_UUIDS_PER_DECISION = 5


@dataclass(frozen=True)
class Block:
    """Consecutive decisions with all that belongs to them, as COPY text by table, and rows by table."""

    decisions: int
    data: dict[str, bytes]
    rows: dict[str, int]


@dataclass(frozen=True)
class History:
    """What `plan` gives: nothing here has touched a database."""

    parameters: Parameters
    world: World

    def dialect(self, version: Version) -> Dialect:
        """How this history is written in schema version 7 or 8."""
        return Dialect(version, self.world)

    def blocks(self, version: Version, size: int = BLOCK_DECISIONS) -> Iterator[Block]:
        """All events. The rows do not depend on who asks, nor on how often."""
        generator = _Generator(self, version)
        for first in range(0, self.parameters.decisions, size):
            yield generator.block(first, min(size, self.parameters.decisions - first))


def plan(parameters: Parameters) -> History:
    """The history of these parameters. Pure and deterministic."""
    return History(parameters, build(parameters))


class _Generator:
    def __init__(self, history: History, version: Version) -> None:
        parameters = history.parameters
        self._parameters = parameters
        self._domains = history.world.domains
        self._dialect = history.dialect(version)
        self._size = per_pool(parameters.decisions, parameters.domains * EPOCHS)
        self._pools: list[list[list[Case] | None]] = [[None] * EPOCHS for _ in self._domains]
        weights = [(rank + 1) ** -parameters.skew for rank in range(parameters.domains)]
        self._shares = [share / sum(weights) for share in accumulate(weights)][:-1]
        self._starts = [[_ms(snapshot.created_at) for snapshot in d.snapshots[1:]] for d in self._domains]
        self._clock = _Clock(parameters)

    def _pool(self, rank: int, epoch: int) -> list[Case]:
        domain = self._domains[rank]
        found = self._pools[rank][epoch]
        if found is None:
            found = pool(self._dialect, domain, domain.snapshots[epoch], self._size)
            self._pools[rank][epoch] = found
        return found

    def block(self, first: int, count: int) -> Block:
        """Decisions first..first+count. One line of work per row: this is the loop that matters."""
        random = Random(f"{self._parameters.key} block {first}").random
        hex_digits = shake_128(f"{self._parameters.key} ids {first}".encode()).hexdigest(
            count * _UUIDS_PER_DECISION * _UUID_HEX // 2
        )
        stamp, moment = self._clock.stamp, self._clock.moment
        shares, starts, size = self._shares, self._starts, self._size
        decisions: list[str] = []
        verdicts: list[str] = []
        timeline: list[str] = []
        at = 0
        for index in range(first, first + count):
            # The very first decision is finance's, so that every history has one there.
            rank = bisect(shares, random()) if index else 0
            received = moment(index, random())
            case = self._pool(rank, bisect(starts[rank], received))[int(random() * size)]
            varying = random()
            sent = stamp(received)
            created = stamp(received + 1 + int(varying * 3))
            answered = stamp(received + 4 + int(varying * 40))
            ids = [_uuid(hex_digits, at + offset) for offset in _OFFSETS]
            at += _UUIDS_PER_DECISION * _UUID_HEX
            decision = ids[0]
            target = f"{case.target}{100_000 + int(varying * 900_000)}"
            decisions.append(f"{decision}\t{sent}\t{created}\t{target}\t{case.decision}")
            verdicts.append(f"{ids[1]}\t{decision}\t{answered}\t{answered}\t{case.verdict}")
            timeline.append(f"{ids[2]}\t{decision}\t{created}\t{created}\t{target}\t{case.recorded}")
            timeline.append(f"{ids[3]}\t{decision}\t{answered}\t{answered}\t{target}\t{case.issued}")
            if case.outcome is not None:
                done = stamp(received + case.outcome_minutes * _MINUTE_MS)
                timeline.append(f"{ids[4]}\t{decision}\t{done}\t{done}\t{target}\t{case.outcome}")
        lines = {DECISIONS: decisions, VERDICTS: verdicts, TIMELINE: timeline}
        return Block(
            count,
            {table: "".join(found).encode() for table, found in lines.items()},
            {table: len(found) for table, found in lines.items()},
        )


_OFFSETS = tuple(range(0, _UUIDS_PER_DECISION * _UUID_HEX, _UUID_HEX))


def _uuid(digits: str, at: int) -> str:
    """32 hex digits as a version 4 UUID; PostgreSQL does not need the hyphens."""
    return f"{digits[at : at + 12]}4{digits[at + 13 : at + 16]}a{digits[at + 17 : at + 32]}"


class _Clock:
    """When things happen: evenly over the days, and within a day mostly between 7 and 19 o'clock."""

    def __init__(self, parameters: Parameters) -> None:
        self._start = _ms(parameters.since)
        length = _ms(parameters.until) - self._start - _LAST_HOURS_MS
        self._per_decision = length / _DAY_MS / parameters.decisions
        self._minutes: dict[int, str] = {}

    def moment(self, index: int, jitter: float) -> int:
        """Milliseconds since 1970. Multiplication and addition only: the same on every machine."""
        days = (index + jitter) * self._per_decision
        day = int(days)
        part = days - day
        if part < 0.1:
            hours = part * 70
        elif part < 0.9:
            hours = 7 + (part - 0.1) * 15
        else:
            hours = 19 + (part - 0.9) * 50
        return self._start + day * _DAY_MS + int(hours * 3_600_000)

    def stamp(self, ms: int) -> str:
        """A timestamp for a session in UTC."""
        minute, rest = divmod(ms, _MINUTE_MS)
        prefix = self._minutes.get(minute)
        if prefix is None:
            if len(self._minutes) > 4096:
                self._minutes.clear()
            prefix = datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%d %H:%M:")
            self._minutes[minute] = prefix
        return prefix + _SECONDS[rest]


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
