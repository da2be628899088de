"""Reads how a server fares: replication, WAL, sessions, and how long a probe takes to commit a row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mandate.errors import DatabaseError, MandateError
from mandate.postgres.connection import Session, sql
from mandate.rekey.load import Signals

_SQL = Path(__file__).parent / "sql"
_REPLICATION = (_SQL / "load_replication.sql").read_bytes()
_SESSIONS = (_SQL / "load_sessions.sql").read_bytes()

Connect = Callable[[], Session]
T = TypeVar("T")

_HIDDEN = "permission denied: GRANT pg_monitor TO this role lets it (or track_activities is off)"


@dataclass
class Line:
    """A session that is opened again after it was lost."""

    connect: Connect
    _session: Session | None = field(default=None, init=False)

    def session(self) -> Session:
        """Raises DatabaseError."""
        if self._session is None or self._session.connection.closed:
            self._session = self.connect()
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


class _Hidden(MandateError):
    """A view that shows rows without what they say."""


@dataclass
class Reader:
    """Everything but the latency, once for each call of `read`."""

    line: Line
    _wal: tuple[float, int] | None = field(default=None, init=False)

    def read(self) -> Signals:
        """Never raises for what PostgreSQL refuses: that is in `unreadable`."""
        unreadable: dict[str, str] = {}

        def attempt(name: str, reading: Callable[[Session], T], otherwise: T) -> T:
            try:
                return reading(self.line.session())
            except (DatabaseError, _Hidden) as error:
                unreadable[name] = error.message
                return otherwise

        lag_bytes, lag_seconds = attempt("replication lag", _replication, (0, 0.0))
        wal_rate = attempt("WAL rate", self._wal_rate, 0.0)
        sessions = attempt("active sessions", _sessions, 0)
        return Signals(
            lag_seconds=lag_seconds,
            lag_bytes=lag_bytes,
            wal_rate=wal_rate,
            sessions=sessions,
            unreadable=unreadable,
        )

    def _wal_rate(self, session: Session) -> float:
        """Bytes a second since the last call; 0 at the first."""
        try:
            at: int = session.value("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
        except DatabaseError:
            self._wal = None
            raise
        now, before = time.monotonic(), self._wal
        self._wal = (now, at)
        return 0.0 if before is None else max(0.0, (at - before[1]) / max(0.001, now - before[0]))


def _replication(session: Session) -> tuple[int, float]:
    row = session.row(_REPLICATION)
    assert row is not None
    if row["hidden"]:
        raise _Hidden(_HIDDEN)
    return row["lag_bytes"], row["lag_seconds"]


def _sessions(session: Session) -> int:
    row = session.row(_SESSIONS, ())
    assert row is not None
    if row["hidden"]:
        raise _Hidden(_HIDDEN)
    sessions: int = row["sessions"]
    return sessions


@dataclass
class Probe:
    """Commits a row, as a client would, into a table of the change's own.

    An insert, because what it costs does not depend on what old snapshots keep from being cleaned; into a
    table, because its commit waits for the disk and for synchronous standbys just as the clients' do.
    """

    line: Line
    table: sql.Identifier

    def milliseconds(self) -> float:
        """How long one takes. Raises DatabaseError."""
        session = self.line.session()
        started = time.monotonic()
        session.execute(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(self.table))
        return (time.monotonic() - started) * 1000
