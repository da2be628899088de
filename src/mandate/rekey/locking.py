"""Locks on tables in use: all at once, for a moment or not at all, and who was in the way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from mandate.errors import DatabaseError, LockNotAvailable
from mandate.postgres.connection import Row, Session, sql
from mandate.progress import Reporter

_SNAPSHOTS = (Path(__file__).parent / "sql" / "held_snapshots.sql").read_bytes()
_HOLDERS = (Path(__file__).parent / "sql" / "lock_holders.sql").read_bytes()
_ORPHANS = (
    "SELECT count(pg_catalog.pg_terminate_backend(a.pid)) FROM pg_catalog.pg_stat_activity AS a"
    " WHERE a.application_name = pg_catalog.current_setting('application_name')"
    " AND a.datname = pg_catalog.current_database() AND a.usename = current_user"
    " AND a.pid <> pg_catalog.pg_backend_pid()"
)
_QUERY_CANCELED = "57014"
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_CANCEL_AGAIN_SECONDS = 0.05

# How long clients may queue behind an attempt.
MOMENT_MILLISECONDS = 300


@contextmanager
def locked(
    session: Session,
    tables: Sequence[sql.Identifier],
    mode: sql.SQL,
    *,
    milliseconds: int = MOMENT_MILLISECONDS,
) -> Iterator[None]:
    """A transaction that holds `mode` on all tables, or raises LockNotAvailable.

    Whoever queues behind the lock waits `milliseconds` for it at most: one statement takes all locks, and
    its time is limited as a whole. Less than a deadlock_timeout, so that no client is chosen as the victim.
    What is done under the locks has that time too, for each statement.
    """
    with session.transaction():
        session.execute(
            "SELECT pg_catalog.set_config('statement_timeout', %(time)s, true),"
            " pg_catalog.set_config('idle_in_transaction_session_timeout', %(time)s, true)",
            {"time": f"{milliseconds}ms"},
        )
        yield_in_deadlocks(session)
        try:
            session.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.SQL(", ").join(tables), mode))
            yield
        except DatabaseError as error:
            if error.sqlstate != _QUERY_CANCELED:
                raise
            raise LockNotAvailable(f"it was not possible within {milliseconds} ms") from error


def keep_from_truncation(session: Session, table: sql.Identifier) -> None:
    """Lock the table for the running transaction, whose snapshot, not taken yet, then comes after the last
    TRUNCATE: that would not respect it.
    """
    session.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(table))


def yield_in_deadlocks(session: Session) -> None:
    """In the running transaction: find a deadlock before a client does, and so be its victim.

    Also gets autovacuum out of the way, which PostgreSQL ends for whoever has waited that long for it. Only
    superusers may; for others `patience_seconds` must do.
    """
    session.execute(
        "SELECT CASE WHEN pg_catalog.current_setting('is_superuser') = 'on'"
        " THEN pg_catalog.set_config('deadlock_timeout', '50ms', true) END"
    )


def patience_seconds(session: Session) -> float:
    """How long several locks may be waited for in all before a client could be a deadlock's victim."""
    milliseconds: int = session.value(
        "SELECT reset_val::int FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'"
    )
    return milliseconds / 2000


@contextmanager
def cut_off(session: Session, seconds: float) -> Iterator[None]:
    """Cancel whatever the session runs once the time is over, until the block ends."""
    over = Event()

    def watch() -> None:
        wait = seconds
        while not over.wait(wait):
            # No connection any more: then nothing runs there for long.
            with suppress(DatabaseError):
                session.cancel()
            wait = _CANCEL_AGAIN_SECONDS

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def at_once(session: Session, seconds: float) -> Iterator[None]:
    """`cut_off`, where running out of time is no more than a lock that was not free: LockNotAvailable."""
    try:
        with cut_off(session, seconds):
            yield
    except DatabaseError as error:
        if error.sqlstate != _QUERY_CANCELED:
            raise
        raise LockNotAvailable(f"it was not possible within {seconds:g} s") from error


def give_up_soon(session: Session) -> None:
    """In the running transaction: be no longer in a client's way than others are in ours."""
    session.execute(
        "SELECT pg_catalog.set_config('lock_timeout', '200ms', true),"
        " pg_catalog.set_config('idle_in_transaction_session_timeout', '1s', true)"
    )
    yield_in_deadlocks(session)


def insist(
    session: Session,
    tables: Sequence[sql.Identifier],
    mode: sql.SQL,
    work: Callable[[], None],
    reporter: Reporter,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Do `work` under the locks; until it is done try again with growing pauses, saying who is in the way.

    `between` is called before it tries again, and may raise.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            with locked(session, tables, mode):
                work()
        except LockNotAvailable:
            reporter.line(f"tables are in use: {'; '.join(holders(session, tables)) or 'nobody any more'}")
            between()
            time.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
        else:
            return


def end_orphans(session: Session) -> None:
    """End sessions that an earlier, killed process of the same name left: what they were sent must not count.

    Returns when they are gone.
    """
    while session.value(_ORPHANS):
        time.sleep(_CANCEL_AGAIN_SECONDS)


def holders(session: Session, tables: Sequence[sql.Identifier]) -> list[str]:
    """Who holds a lock on one of the tables that keeps others from changing it, in words; at most five."""
    names = [table.as_string(session.connection) for table in tables]
    return [_holding(row) for row in session.rows(_HOLDERS, {"tables": names})]


def held_snapshots(session: Session, seconds: float) -> list[str]:
    """Whose transaction began `seconds` ago or longer and sees what was there then, in words; at most five.

    In new tables it would find rows as old as that or older: those of then were not all there yet.
    """
    rows = session.rows(_SNAPSHOTS, {"seconds": seconds})
    return [in_words(row) for row in rows]


def in_words(row: Row) -> str:
    """A client and what it does: {pid, user, application, state, seconds}."""
    return f"{_who(row)}, {row['state']}, transaction of {row['seconds']} s"


def _holding(row: Row) -> str:
    if row["pid"] is None:
        return f"prepared transaction {row['gid']} of {row['user']} on {row['relation']}"
    return f"{_who(row)} on {row['relation']}, {row['state']}, transaction of {row['seconds']} s"


def _who(row: Row) -> str:
    return f"pid {row['pid']} ({row['user']}, {row['application'] or 'no application name'})"
