"""One run per database: an advisory lock held by a session of its own for as long as the run lives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mandate.errors import RunLocked
from mandate.postgres.connection import Row, Session, Target, connect

_POLL_SECONDS = 0.2


@contextmanager
def held(target: Target, application_name: str, *, wait_seconds: float = 3.0) -> Iterator[Session]:
    """Hold the lock. Raises RunLocked, naming the holder, when it is not free within `wait_seconds`."""
    with connect(
        target,
        application_name=application_name,
        settings={"tcp_keepalives_idle": "30"},
    ) as session:
        acquire(session, target, wait_seconds)
        yield session


def acquire(session: Session, target: Target, wait_seconds: float) -> None:
    """Take the lock for this session. Raises RunLocked."""
    deadline = time.monotonic() + wait_seconds
    while not session.value("SELECT pg_try_advisory_lock(hashtextextended('mandate_conductor.run', 0))"):
        if time.monotonic() >= deadline:
            raise _locked(session, target)
        time.sleep(_POLL_SECONDS)


def holder(session: Session) -> Row | None:
    """The session that holds the lock: pid, application, user, address, since."""
    return session.row(
        'SELECT a.pid, a.application_name AS application, a.usename AS "user",'
        " coalesce(host(a.client_addr), 'local socket') AS address, a.backend_start AS since"
        " FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        " CROSS JOIN (SELECT hashtextextended('mandate_conductor.run', 0) AS key) k"
        " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND l.classid::bigint = (k.key >> 32) & 4294967295 AND l.objid::bigint = k.key & 4294967295"
    )


def _locked(session: Session, target: Target) -> RunLocked:
    who = holder(session)
    if who is None:
        return RunLocked(f"another run held {target} a moment ago", hint="try again")
    return RunLocked(
        f"{who['application']} holds {target.database}: server process {who['pid']},"
        f" user {who['user']}, from {who['address']}, since {who['since']:%Y-%m-%d %H:%M:%S}",
        hint="`mandate watch` follows it; two runs on one database are never right",
        holder={key: str(value) for key, value in who.items()},
    )
