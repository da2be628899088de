"""Where a replay's decisions are: which, in which order, in which chunks."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from mandate.controlplane.dialect import Dialect
from mandate.postgres.connection import Session
from mandate.postgres.copying import copied_lines


class Position(NamedTuple):
    """A decision's place in the order of time: its timestamp as PostgreSQL prints it, and its id."""

    time: str
    id: str


BEFORE_ALL = Position("-infinity", "00000000-0000-0000-0000-000000000000")
AFTER_ALL = Position("infinity", "ffffffff-ffff-ffff-ffff-ffffffffffff")


@dataclass(frozen=True)
class Selection:
    """Decisions received from `since` on, before `until` and by `received`, narrowed by the others.

    Times as PostgreSQL prints them. `domains`: pairs (organization_id, domain), None for all.
    """

    since: str
    until: str
    received: str
    organization_id: str | None = None
    domain: str | None = None
    intent: str | None = None
    domains: tuple[tuple[str, str], ...] | None = None

    def params(self, after: Position) -> dict[str, Any]:
        """For the statements of replay."""
        pairs = self.domains
        return {
            "since": self.since,
            "until": self.until,
            "received": self.received,
            "organization_id": self.organization_id,
            "domain": self.domain,
            "intent": self.intent,
            "organizations": None if pairs is None else [pair[0] for pair in pairs],
            "domains": None if pairs is None else [pair[1] for pair in pairs],
            "after_time": after.time,
            "after_id": after.id,
        }


class Chunk(NamedTuple):
    """Decisions after one position, up to another."""

    after: Position
    upto: Position


def count(session: Session, dialect: Dialect, selection: Selection, after: Position) -> int:
    """How many decisions are left after a position."""
    return int(session.value(dialect.statements["replay_count"], selection.params(after)))


def chunks(
    session: Session, dialect: Dialect, selection: Selection, after: Position, size: int
) -> Generator[Chunk, None, None]:
    """All chunks after a position, the last one open-ended. Close it before its transaction ends."""
    params = {**selection.params(after), "size": size}
    with session.stream(dialect.statements["replay_ends"], params, size=64) as ends:
        for end in ends:
            upto = Position(end["time"], end["id"])
            yield Chunk(after, upto)
            after = upto
    yield Chunk(after, AFTER_ALL)


def has_texts(session: Session, dialect: Dialect) -> bool:
    """Whether any decision came with a text, so that `lines` must look for it."""
    return bool(session.value(dialect.statements["replay_texts"]))


def lines(
    session: Session, dialect: Dialect, selection: Selection, chunk: Chunk, *, texts: bool
) -> AbstractContextManager[Iterator[str]]:
    """The rows of a chunk (see replay_rows.sql) in COPY's text format."""
    upto = {"upto_time": chunk.upto.time, "upto_id": chunk.upto.id}
    params = {**selection.params(chunk.after), **upto, "texts": texts}
    return copied_lines(session, dialect.statements["replay_rows"], params)
