"""The ends of a change: its capture, its schemas and its status go together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mandate.errors import DiskFull, LockNotAvailable, NeedsPerson
from mandate.postgres.connection import Session
from mandate.progress import Reporter
from mandate.rekey import capture, journal, leftovers, locking, snapshots
from mandate.rekey.direction import FORWARD, Direction
from mandate.rekey.model import Graph
from mandate.rekey.spec import Spec


@dataclass(frozen=True)
class Ends:
    """Ends one change. `deadline_seconds`: for so long clients may have to wait for it."""

    connect: Callable[[], Session]
    spec: Spec
    reporter: Reporter
    deadline_seconds: float

    @property
    def name(self) -> str:
        return self.spec.rekey.name

    def abort(self) -> None:
        """Leave no object of a change before its swap, if it has not ended so already.

        Raises NeedsPerson when there is none.
        """
        with self.connect() as session:
            change = journal.load(session, self.name)
            if change is not None and change.status == "aborted":
                return
            if change is None or change.status != "running":
                raise NeedsPerson(
                    f"there is nothing to abort: {self.name} is {change.status if change else 'not there'}",
                    hint=journal.NEXT[change.status] if change else "`mandate status` says what is",
                )
            self.end(session, journal.kept_graph(change), FORWARD, "aborted")

    def take_back(self) -> bool:
        """End a change that filled a disk, as abort does; False when there is nothing to end."""
        with self.connect() as session:
            change = journal.load(session, self.name) if journal.exists(session) else None
            if change is None or change.status != "running":
                return False
            graph = journal.kept_graph(change)
            try:
                self.end(session, graph, FORWARD, "aborted")
            except DiskFull:
                # Without room for one more row in the journal: what gives space back comes first. A change
                # without phases begins at the first one, should this be as far as it gets.
                with session.transaction():
                    journal.forget_phases(session, self.name)
                    self._drop(session, graph, FORWARD)
                journal.set_status(session, self.name, "aborted")
            return True

    def sweep(self) -> None:
        """`abort`, or drop what a change that nothing records has left. Raises NeedsPerson like `abort`."""
        with self.connect() as session:
            change = journal.load(session, self.name)
            if leftovers.there(session, self.spec) and (change is None or change.status in journal.ENDED):
                leftovers.drop(session, self.spec)
            else:
                self.abort()

    def end(self, session: Session, graph: Graph | None, direction: Direction, status: str) -> None:
        """In one transaction, however often it takes: a change without its capture must not look alive."""
        pause = 0.2
        while True:
            try:
                with locking.at_once(session, self.deadline_seconds), session.transaction():
                    self._drop(session, graph, direction)
                    journal.set_status(session, self.name, status)
            except LockNotAvailable as error:
                self.reporter.line(f"waits for a lock to be {status}: {error.message}")
                time.sleep(pause)
                pause = min(5.0, pause * 2)
            else:
                return

    def _drop(self, session: Session, graph: Graph | None, direction: Direction) -> None:
        locking.give_up_soon(session)
        if graph is not None:
            capture.remove(session, graph, direction)
            if not direction.forward:
                snapshots.remove(session, graph, self.reporter)
                leftovers.drop_until_final(session, self.spec)
        leftovers.drop(session, self.spec)
