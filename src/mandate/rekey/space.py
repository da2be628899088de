"""The disk guard: no change begins that will not fit, and none that stops fitting goes on.

Full means full for everybody: the space that the new tables took is what clients need first. So a change
that fills a disk is taken back wholly; keeping it for later would keep the disk full, with capture going on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from mandate.errors import (
    DatabaseError,
    DiskFilled,
    DiskFull,
    MandateError,
    NeedsPerson,
    NotEnoughSpace,
)
from mandate.postgres.connection import Session, Target
from mandate.progress import Reporter
from mandate.rekey import forecast
from mandate.rekey.model import Graph

_POLL_SECONDS = 0.25
_MIB = 1 << 20


@dataclass(frozen=True)
class Guard:
    """What is asked of the disks. `forced`: too little is written down, not refused."""

    target: Target
    graph: Graph
    jobs: int
    forced: bool = False

    def begin(self, session: Session, reporter: Reporter) -> None:
        """Before anything is created. Says what is not known from here. Raises NotEnoughSpace."""
        figures = self.figures(session)
        if short := _short(figures):
            raise _refusal(short, begun=False)
        for said in unknown(figures):
            reporter.line(said)

    def resume(self, session: Session) -> None:
        """Before a change is gone on with. Raises NotEnoughSpace; what was done before stays."""
        if short := _short(self.figures(session)):
            raise _refusal(short, begun=True)

    def require_still(self, session: Session) -> dict[str, Any]:
        """The same on the way, where too little space means that the change is taken back: DiskFull."""
        figures = self.figures(session)
        if short := _short(figures):
            raise DiskFull("the rest no longer fits: " + "; ".join(map(_in_words, short)))
        return figures

    def figures(self, session: Session) -> dict[str, Any]:
        """What is needed now, less what was written already, by file system."""
        parts = forecast.need(session, self.graph, self.jobs)
        left = forecast.less(parts, _there(session, self.graph))
        places = forecast.places(session, self.target, left)
        return {"places": [place.as_dict() for place in places], "forced": self.forced}


def _short(figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [] if figures["forced"] else [place for place in figures["places"] if place["missing"]]


def _in_words(place: Mapping[str, Any]) -> str:
    return (
        f"{place['path']}: {text(place['needed'])} needed and {text(place['margin'])} of margin,"
        f" {text(place['free'])} free, {text(place['missing'])} missing"
    )


def _refusal(short: Sequence[Mapping[str, Any]], begun: bool) -> NotEnoughSpace:
    """The error that names need, free and missing bytes, and what to do."""
    what = "the rest of the change does not fit; what is done already stays, and clients' writes are captured"
    return NotEnoughSpace(
        (what if begun else "the new tables do not fit beside the old ones; nothing was begun")
        + f": {'; '.join(map(_in_words, short))}",
        hint="free that much there and run again; `mandate rekey plan SPEC` shows what it is for."
        " --force-space begins nevertheless"
        + ("; `mandate rekey abort SPEC` gives back what is taken" if begun else ""),
        places=list(short),
        need_bytes=sum(place["needed"] for place in short),
        free_bytes=sum(place["free"] for place in short),
        missing_bytes=sum(place["missing"] for place in short),
    )


def text(size: int) -> str:
    """Whole MiB, rounded up."""
    return f"{-(-size // _MIB):,} MiB"


def unknown(evidence: Mapping[str, Any]) -> list[str]:
    """What is to be said about places whose free space is not known from here."""
    return [
        f"free space for {', '.join(place['tablespaces'])} is not known from here ({place['why']}):"
        f" {text(place['needed'] + place['margin'])} are needed there; look with `df -h` on the server"
        for place in evidence["places"]
        if place["free"] is None
    ]


def _there(session: Session, graph: Graph) -> dict[str | None, int]:
    """Bytes that the change's own schemas take already, by tablespace."""
    rows = session.rows(
        "SELECT t.spcname AS tablespace, sum(pg_catalog.pg_relation_size(c.oid)"
        "  + CASE WHEN c.reltoastrelid <> 0 THEN pg_catalog.pg_total_relation_size(c.reltoastrelid)"
        "  ELSE 0 END)::bigint AS bytes FROM pg_catalog.pg_class AS c"
        " LEFT JOIN pg_catalog.pg_tablespace AS t ON t.oid = c.reltablespace"
        " WHERE c.relkind IN ('r', 'i', 'm') AND c.relnamespace IN ("
        "  SELECT n.oid FROM pg_catalog.pg_namespace AS n"
        "  WHERE pg_catalog.split_part(n.nspname, '$', 1) = ANY (%s)) GROUP BY 1",
        ([graph.spec.shadow_schema, graph.spec.work_schema],),
    )
    return {row["tablespace"]: row["bytes"] for row in rows}


# -- on the way --------------------------------------------------------------------------------------


class Watch:
    """Looks at the disks' free space while work goes on, with the figures of a Guard.

    Half of the margin is the floor: clients must not meet a full disk before the change is gone.
    """

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._floors = [
            (Path(place["path"]), min(place["margin"], place["free"]) // 2)
            for place in figures["places"]
            if place["free"] is not None
        ]

    def low(self) -> str | None:
        """The place that has less left than its floor, in words."""
        for path, floor in self._floors:
            free = shutil.disk_usage(path).free
            if free < floor:
                return f"{text(free)} left at {path}, {text(floor)} have to stay"
        return None

    def require(self) -> None:
        """Raise DiskFull when too little is left."""
        if said := self.low():
            raise DiskFull(said)

    @contextmanager
    def over(self, sessions: Sequence[Session]) -> Iterator[None]:
        """Cancel what `sessions` do when too little is left; that is then DiskFull."""
        ended, tripped = Event(), Event()

        def look() -> None:
            while not ended.wait(_POLL_SECONDS):
                if self.low() is not None:
                    tripped.set()
                    for session in sessions:
                        session.cancel()

        thread = Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        except DatabaseError as error:
            if tripped.is_set():
                raise DiskFull(self.low() or "too little space was left for a moment") from error
            raise
        finally:
            ended.set()
            thread.join()


def give_up(error: DiskFull, take_back: Callable[[], bool]) -> MandateError:
    """What a run ends with whose disk filled up, after it was taken back."""
    try:
        taken_back = take_back()
    except DatabaseError as second:
        return NeedsPerson(
            f"a disk filled up ({error.message}) and the change could not be taken back: {second.message}",
            hint="free space on the server, then `mandate rekey abort SPEC`: it drops the new tables",
        )
    if not taken_back:
        return error
    return DiskFilled(
        f"too little disk: {error.message}. The new tables were dropped and their space is free again;"
        " clients go on with the old tables as if nothing had been",
        hint="`mandate rekey plan SPEC` says how much is needed; make room, then run again from the start",
    )
