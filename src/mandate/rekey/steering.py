"""What other terminals, and the load of the server, have a run do: wait, work less of the time, end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mandate.errors import RolledBack
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.progress import Reporter
from mandate.rekey import eta, journal, throttle
from mandate.rekey.governor import Governor
from mandate.rekey.load import Decision, Limits
from mandate.rekey.model import Graph

_POLL_SECONDS = 0.5
_SMALL_BYTES = 64 << 20


class Aborted(RolledBack):
    """Somebody asked for it from another terminal; nothing of the change is left."""

    code = "aborted"


@dataclass(frozen=True)
class Steering:
    """Obeys for one run. `abort`: leaves nothing of the change. governor None: no load is looked at."""

    name: str
    abort: Callable[[], None]
    governor: Governor | None = None

    def obey(self, session: Session) -> None:
        """Do what other terminals ask: wait while paused, end when aborted."""
        while (asked := journal.control(session, self.name)).paused and not asked.abort:
            journal.waits(session, self.name, "paused: `mandate rekey resume` goes on")
            self._rest()
        if asked.abort:
            self.abort()
            raise Aborted(f"{self.name} was aborted from another terminal; nothing of it is left")

    def hold(self, session: Session, meanwhile: Callable[[], object]) -> None:
        """Do `meanwhile` again and again until somebody releases the cutover."""
        while journal.control(session, self.name).hold_cutover:
            self.obey(session)
            meanwhile()
            journal.waits(session, self.name, "the cutover is held: the command `cutover` releases it")
            self._rest()
        journal.waits(session, self.name, None)

    def gate(self, session: Session) -> throttle.Gate:
        """For work that cannot be interrupted: the next of it begins when the server allows it."""
        pace = throttle.Pace()
        return throttle.Gate(lambda: self.pace(session, pace))

    def pace(self, session: Session, pace: throttle.Pace, least: float = 0.0) -> None:
        """Before a piece of work: obey, and let the server have its share of the time, and clients theirs.

        least: the share that is worked at all events, while the server allows anything.
        """
        self.obey(session)
        decided = self.wait_for_server(session)
        share, why = decided.share, decided.reason
        asked = journal.control(session, self.name).throttle
        if asked is not None and asked < share:
            share, why = asked, "`mandate rekey throttle` asked for it"
        share = max(share, least)
        journal.waits(
            session, self.name, f"throttled: works {share:.0%} of the time: {why}" if share < 1 else None
        )
        with self._idle():
            pace.rest(share)

    def wait_for_server(self, session: Session) -> Decision:
        """Until the server's load allows any work at all."""
        if self.governor is None:
            return Decision()
        while (decided := self.governor.decision()).share == 0:
            journal.waits(session, self.name, f"the server comes first: {decided.reason}")
            with self.governor.rest():
                self.governor.wait(_POLL_SECONDS)
            self.obey(session)
        return decided

    @contextmanager
    def _idle(self) -> Iterator[None]:
        if self.governor is None:
            yield
        else:
            with self.governor.idle():
                yield

    def _rest(self) -> None:
        """Until it is time to ask again; it says nothing of how fast the work is."""
        if self.governor is None:
            time.sleep(_POLL_SECONDS)
        else:
            with self.governor.rest():
                time.sleep(_POLL_SECONDS)


def governor(
    session: Session, target: Target, graph: Graph, limits: Limits | None, reporter: Reporter
) -> Governor:
    """It measures the server before anything is done; not for long when there is little to do."""
    name = graph.spec.rekey.name
    tables = sum(table.old.bytes for table in graph.tables)
    indexes = session.value(
        "SELECT sum(pg_indexes_size(oid::oid::regclass)) FROM unnest(%s::bigint[]) AS t (oid)",
        ([table.old.oid for table in graph.tables],),
    )
    small = {"baseline_samples": 10} if tables < _SMALL_BYTES else {}
    made = Governor(
        lambda: connect(
            target,
            application_name=f"mandate-load-{name}",
            settings={"statement_timeout": "2s", "search_path": "pg_catalog"},
        ),
        name,
        limits,
        reporter,
        probe=sql.Identifier(graph.spec.work_schema, "probe"),
        expected=eta.weights(tables, int(indexes or 0)),
        **small,
    )
    for phase in journal.phases(session, name):
        if phase.finished_at is not None:
            made.is_over(phase.phase, phase.evidence.get("seconds", 0.0))
    return made
