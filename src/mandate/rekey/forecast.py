"""What a change of keys will take - disk, WAL, locks, time - before it is begun. Changes nothing.

With a sample, a little of it is done for real in a transaction that is rolled back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mandate.postgres import disk
from mandate.postgres.connection import Session, Target, connect
from mandate.rekey import catalogue, cutover, estimate, locks, measuring, sampling, yielding
from mandate.rekey.estimate import Eta, NewTableSize, Part, Server, TableSample, TableSize
from mandate.rekey.locks import Lock
from mandate.rekey.model import Graph


@dataclass(frozen=True)
class Place:
    """A file system of the server: what a change needs there, what has to stay free beyond it, what is free.

    `free` None: not known from here, `why` says why.
    """

    tablespaces: tuple[str, ...]
    path: str | None
    needed: int
    margin: int
    free: int | None
    why: str | None = None

    @property
    def missing(self) -> int:
        """Bytes that are too few; 0 when it fits, or when nobody knows."""
        return 0 if self.free is None else max(0, self.needed + self.margin - self.free)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "missing": self.missing}


@dataclass(frozen=True)
class Forecast:
    """All of it. `not_sampled`: why there is no sample, when one was wanted."""

    tables: tuple[NewTableSize, ...]
    parts: tuple[Part, ...]
    places: tuple[Place, ...]
    wal: int
    server: Server
    eta: Eta
    locks: tuple[Lock, ...]
    jobs: int
    sample_seconds: float | None = None
    not_sampled: str | None = None
    earlier: str | None = None

    @property
    def needed(self) -> int:
        """New bytes on all disks, WAL included."""
        return sum(part.bytes for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "tables": [table.as_dict() for table in self.tables],
            "parts": [asdict(part) for part in self.parts],
            "places": [place.as_dict() for place in self.places],
            "needed": self.needed,
            "wal": self.wal,
            "server": asdict(self.server),
            "eta": {**asdict(self.eta), "seconds": self.eta.seconds},
            "locks": [asdict(lock) for lock in self.locks],
            "jobs": self.jobs,
            "sample_seconds": self.sample_seconds,
            "not_sampled": self.not_sampled,
            "earlier": self.earlier,
        }


def make(
    session: Session,
    target: Target,
    graph: Graph,
    *,
    jobs: int,
    sample: bool = True,
    swap: cutover.Options | None = None,
) -> Forecast:
    """Measure and estimate. Without `sample` nothing is read but the catalogue, and no time is known.

    A run of the same change that got as far as its verification tells the time better than a sample.
    Raises DatabaseError.
    """
    kept = catalogue.live(session, graph)
    old, extra = measuring.tables(session, graph, kept, read_rows=sample)
    server = measuring.server(session)
    samples: Mapping[str, TableSample] = {}
    not_sampled, took = None, None
    if sample:
        written, started = measuring.writes(session, graph), time.monotonic()
        try:
            with yielding.watching(lambda: connect(target)) as watch:
                samples = sampling.take(session, graph, kept, watch=watch)
        except sampling.CannotSample as error:
            not_sampled = str(error)
        took = time.monotonic() - started
        if measuring.has_clients(session):
            time.sleep(max(0.0, measuring.WINDOW_SECONDS - took))
        now = measuring.writes(session, graph)
        server = measuring.with_writes(server, written, now, time.monotonic() - started)
    new = tuple(estimate.new_size(table, samples.get(table.table)) for table in old)
    before = measuring.earlier(session, graph.spec.rekey.name)
    eta = Eta("none")
    if before is not None:
        eta = estimate.eta_of_earlier(before, sum(table.rows for table in new))
    elif samples:
        keys, references = measuring.keys(graph), measuring.references(kept)
        eta = estimate.eta_of_sample(new, samples, keys, references, server, jobs)
    wal = estimate.wal_bytes(new, server)
    parts = _parts(new, old, extra, server, jobs, eta, wal)
    return Forecast(
        new,
        tuple(parts),
        tuple(places(session, target, parts)),
        wal,
        server,
        eta,
        tuple(locks.of_change(graph, kept, swap or cutover.Options())),
        jobs,
        None if not samples or took is None else round(took, 2),
        not_sampled,
        None if before is None else before.began,
    )


def need(session: Session, graph: Graph, jobs: int) -> list[Part]:
    """The disk that a change needs, from the catalogue and a thousand parents alone: takes a moment."""
    kept = catalogue.read(session, graph)
    old, extra = measuring.tables(session, graph, kept, read_rows=True)
    server = measuring.server(session)
    new = [estimate.new_size(table, None) for table in old]
    return _parts(new, old, extra, server, jobs, Eta("none"), estimate.wal_bytes(new, server))


def _parts(
    new: Sequence[NewTableSize],
    old: Sequence[TableSize],
    extra: Sequence[Part],
    server: Server,
    jobs: int,
    eta: Eta,
    wal: int,
) -> list[Part]:
    found = estimate.parts(new, old, extra, server, jobs, eta.seconds)
    return [*found, estimate.wal_part(wal, server)]


def places(session: Session, target: Target, parts: Sequence[Part]) -> list[Place]:
    """What of it each file system of the server has to take, and what it has."""
    own = disk.default_tablespace(session)
    found = []
    for volume in disk.volumes(session, target, {part.tablespace or own for part in parts}):
        needed = sum(part.bytes for part in parts if (part.tablespace or own) in volume.tablespaces)
        made = Place(
            volume.tablespaces, volume.path, needed, estimate.margin(needed), volume.free, volume.why
        )
        found.append(made)
    return found


def less(parts: Sequence[Part], there: Mapping[str | None, int]) -> list[Part]:
    """What is still needed when `there` (bytes by tablespace) was written already. Pure."""
    left = dict(there)
    found = []
    for part in parts:
        taken = 0 if part.what == "WAL" else min(part.bytes, left.get(part.tablespace, 0))
        left[part.tablespace] = left.get(part.tablespace, 0) - taken
        found.append(replace(part, bytes=part.bytes - taken))
    return found
