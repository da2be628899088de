"""The swap: one transaction under a deadline, retried with growing pauses, never guessed about.

Forward, the old tables go to the retained schema and the shadows take their place. Back, the retained
tables return and the new ones are put aside. Both are the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mandate.errors import (
    DatabaseError,
    DatabaseUnavailable,
    LockNotAvailable,
    MigrationFailed,
    OutcomeUnknown,
)
from mandate.postgres.connection import Session, sql
from mandate.progress import Reporter
from mandate.rekey import capture, catch_up, locking, objects
from mandate.rekey.direction import Direction
from mandate.rekey.model import Graph

_QUERY_CANCELED = "57014"
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 30.0

Work = Callable[[Session], object]


@dataclass(frozen=True)
class Options:
    """How long clients may have to wait: `deadline_seconds` for the whole transaction, locks included."""

    deadline_seconds: float = 0.5
    lock_timeout_seconds: float = 0.2
    largest_backlog: int = 1000
    attempts: int | None = None


@dataclass(frozen=True)
class Swap:
    """One swap. `also` runs inside the transaction (a row of the journal, of migration_log)."""

    graph: Graph
    direction: Direction
    connect: Callable[[], Session]
    options: Options
    also: Sequence[Work] = ()


def run(swap: Swap, reporter: Reporter, waits: Callable[[str | None], None]) -> dict[str, Any]:
    """Swap; evidence {attempts, blocked_milliseconds, blockers}.

    `waits` is told why it waits. Raises MigrationFailed when `options.attempts` are used up (nothing is
    changed), OutcomeUnknown when the server does not come back to say how COMMIT ended.
    """
    blockers: list[str] = []
    pause = _FIRST_PAUSE_SECONDS
    attempt = 0
    while True:
        attempt += 1
        with swap.connect() as session:
            _reduce_backlog(swap, session)
            try:
                blocked = _attempt(swap, session)
            except (LockNotAvailable, _TooLate) as error:
                said = f"cutover attempt {attempt}: {error}; held by {_held_by(swap, session)}"
                blockers.append(said)
                reporter.line(said)
                waits(said)
            else:
                waits(None)
                return {
                    "attempts": attempt,
                    "blocked_milliseconds": round(blocked * 1000, 1),
                    "blockers": blockers,
                }
        if swap.options.attempts is not None and attempt >= swap.options.attempts:
            raise MigrationFailed(
                f"the cutover did not get its locks in {attempt} attempts; nothing was changed",
                hint=f"end what holds them, then run again: {blockers[-1]}",
                blockers=blockers,
            )
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)


class _TooLate(Exception):
    """The transaction took longer than its deadline and was taken back."""


def _reduce_backlog(swap: Swap, session: Session) -> None:
    """Catch up outside the locks, so that little is left to do inside them."""
    largest = swap.options.largest_backlog
    catch_up.until_small(session, swap.graph, swap.direction, small=largest // 4, limit=largest)


def _attempt(swap: Swap, session: Session) -> float:
    """One try; the seconds for which clients could not work. Raises LockNotAvailable or _TooLate."""
    also_move = objects.at_cutover(session, swap.graph, swap.direction)
    started = time.monotonic()
    xid: str | None = None
    try:
        with session.transaction():
            xid = session.value("SELECT pg_current_xact_id()::text")
            _limit(swap, session, started)
            _lock(swap, session)
            locked = time.monotonic()
            for step in _steps(swap, also_move):
                _limit(swap, session, started)
                step(session)
    except DatabaseUnavailable as error:
        if xid is None or not _committed(swap, xid, error):
            raise
    except DatabaseError as error:
        if error.sqlstate == _QUERY_CANCELED:
            raise _TooLate(f"not done within {swap.options.deadline_seconds:g} s") from error
        raise
    return time.monotonic() - locked


def _limit(swap: Swap, session: Session, started: float) -> None:
    """A lock timeout counts for each lock: what is left of the deadline bounds every statement."""
    left = swap.options.deadline_seconds - (time.monotonic() - started)
    if left <= 0:
        raise _TooLate(f"not done within {swap.options.deadline_seconds:g} s")
    session.execute(
        "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
        (f"{round(swap.options.lock_timeout_seconds * 1000)}ms", f"{max(1, round(left * 1000))}ms"),
    )


def _lock(swap: Swap, session: Session) -> None:
    """Everything the swap touches, in the order in which clients lock it."""
    for statement in objects.to_lock(session, swap.graph):
        session.execute(statement)


def _steps(swap: Swap, also_move: Sequence[sql.Composed]) -> list[Work]:
    graph, direction = swap.graph, swap.direction
    return [
        lambda session: catch_up.drain(session, graph, direction),
        lambda session: capture.remove(session, graph, direction),
        lambda session: _move(swap, session),
        lambda session: _execute(session, also_move),
        *swap.also,
    ]


def _move(swap: Swap, session: Session) -> None:
    """Two changes of schema for each table; nothing is renamed."""
    spec = swap.graph.spec
    aside = spec.retained_schema if swap.direction.forward else spec.shadow_schema
    back = spec.shadow_schema if swap.direction.forward else spec.retained_schema
    session.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(aside)))
    for table in swap.graph.tables:
        schema, name = table.old.schema, table.old.name
        _set_schema(session, schema, name, aside)
        _set_schema(session, back, name, schema)


def _set_schema(session: Session, schema: str, name: str, to: str) -> None:
    session.execute(
        sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(sql.Identifier(schema, name), sql.Identifier(to))
    )


def _execute(session: Session, statements: Sequence[sql.Composed]) -> None:
    for statement in statements:
        session.execute(statement)


def _held_by(swap: Swap, session: Session) -> str:
    tables = [table.old.identifier for table in swap.graph.tables]
    return "; ".join(locking.holders(session, tables)) or "a session that has ended since"


def _committed(swap: Swap, xid: str, error: DatabaseUnavailable) -> bool:
    """What became of a COMMIT whose answer never came. Raises OutcomeUnknown when nobody can say."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(DatabaseError), swap.connect() as session:
            status = session.value("SELECT pg_xact_status(%s::text::xid8)", (xid,))
            if status in ("committed", "aborted"):
                return bool(status == "committed")
        time.sleep(0.5)
    raise OutcomeUnknown(
        f"the connection was lost while the cutover committed: {error.message}",
        hint="run the same command again when the server is back: it looks at what is there",
        xid=xid,
    ) from error
