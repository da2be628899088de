"""Gives way to clients that need a table for themselves: work in their way is cancelled and done again.

A reader's lock keeps nobody from writing. But a client that wants to truncate or alter the table waits for
it, and everybody else then queues behind that client.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TypeVar

from mandate.errors import DatabaseError, MigrationFailed
from mandate.postgres.connection import Row, Session

T = TypeVar("T")

_WAITERS = (Path(__file__).parent / "sql" / "lock_waiters.sql").read_bytes()
_QUERY_CANCELED = "57014"
# A client may have waited for so long before it is noticed; a poll later it has what it wants.
_PATIENCE_MILLISECONDS = 100
_POLL_SECONDS = 0.1
_CANCEL_AGAIN_SECONDS = 0.02
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 10.0
_TRIES = 40


class _GaveWay(Exception):
    """Work was cancelled for somebody; its transaction is taken back."""


@dataclass
class _Group:
    """Sessions that do one piece of work; `client`: whom it is in the way of, once it is."""

    pids: frozenset[int]
    client: str | None = None


@dataclass
class Watch:
    """Looks after work in progress. `say` is told why work waits, and None when it goes on."""

    connect: Callable[[], Session]
    say: Callable[[str | None], None] = lambda why: None
    _groups: list[_Group] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)
    _begun: Event = field(default_factory=Event)
    _over: Event = field(default_factory=Event)

    def retried(self, sessions: Sequence[Session], work: Callable[[], T]) -> T:
        """Do work that leaves nothing behind when a statement of it is cancelled.

        In the way of a client it is cancelled, and after a pause done from its beginning. Raises
        MigrationFailed when that happens again and again.
        """
        pause, client = _FIRST_PAUSE_SECONDS, ""
        for attempt in range(_TRIES):
            try:
                with self._in_sight(sessions):
                    done = work()
            except _GaveWay as error:
                client = str(error)
            else:
                if attempt:
                    self.say(None)
                return done
            self.say(f"gives way to {client}")
            time.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
        raise MigrationFailed(
            f"clients need a table for themselves again and again: at last {client}",
            hint="nothing is lost; run the same command again when that has ended",
        )

    @contextmanager
    def _in_sight(self, sessions: Sequence[Session]) -> Iterator[None]:
        group = _Group(frozenset(session.pid for session in sessions))
        with self._lock:
            self._groups.append(group)
        self._begun.set()
        try:
            yield
        except DatabaseError as error:
            if error.sqlstate != _QUERY_CANCELED or group.client is None:
                raise
            raise _GaveWay(group.client) from error
        finally:
            with self._lock:
                self._groups.remove(group)

    # -- the thread that looks -----------------------------------------------------------------------

    def run(self) -> None:
        """Look until `stop`. A server that cannot be asked has no work to be cancelled."""
        self._begun.wait()
        while not self._over.is_set():
            with suppress(DatabaseError), self.connect() as session:
                wait = 0.0
                while not self._over.wait(wait):
                    wait = self._look(session)
            self._over.wait(_POLL_SECONDS)

    def stop(self) -> None:
        self._over.set()
        self._begun.set()

    def _look(self, session: Session) -> float:
        """Cancel what is in somebody's way; the seconds after which to look again.

        Under the lock: what is over by then is not cancelled, nor what its sessions do next.
        """
        with self._lock:
            pids = sorted({pid for group in self._groups for pid in group.pids})
            if not pids:
                return _POLL_SECONDS
            for row in session.rows(_WAITERS, {"pids": pids, "milliseconds": _PATIENCE_MILLISECONDS}):
                for group in self._groups:
                    if row["blocker"] in group.pids:
                        group.client = group.client or _in_words(row)
            # Some of a group's sessions may be between two statements: again, until its work has ended.
            asked = sorted({pid for group in self._groups if group.client for pid in group.pids})
            session.execute(
                "SELECT pg_catalog.pg_cancel_backend(p) FROM unnest(%s::int[]) AS t (p)", (asked,)
            )
        return _CANCEL_AGAIN_SECONDS if asked else _POLL_SECONDS


def _in_words(row: Row) -> str:
    who = f"pid {row['pid']} ({row['user']}, {row['application'] or 'no application name'})"
    return f"{who}, which waits for {row['mode']} on {row['relation']}"


@contextmanager
def watching(
    connect: Callable[[], Session], say: Callable[[str | None], None] = lambda why: None
) -> Iterator[Watch]:
    """A watch with a session of its own, from the first piece of work to the end of the block."""
    made = Watch(connect, say)
    thread = Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join()


def retried(watch: Watch | None, sessions: Sequence[Session], work: Callable[[], T]) -> T:
    """`Watch.retried`, where somebody watches; else the work as it is."""
    return work() if watch is None else watch.retried(sessions, work)
