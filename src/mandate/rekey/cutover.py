"""The swap: one transaction under a deadline, retried with growing pauses, never guessed about.

Forward, the old tables go to the retained schema and the shadows take their place. Back, the retained
tables return and the new ones are put aside. Both are the same code.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mandate.errors import (
    CheckFailed,
    DatabaseError,
    DatabaseUnavailable,
    LockNotAvailable,
    MigrationFailed,
    OutcomeUnknown,
)
from mandate.postgres.connection import Session, sql
from mandate.progress import Reporter
from mandate.rekey import capture, catch_up, locking, objects, snapshots, yielding
from mandate.rekey.direction import BACK, Direction
from mandate.rekey.model import Graph

# A statement that ran too long, and a session that the server ended because nothing came from it.
_CANCELED = "57014"
_OUT_OF_TIME = (_CANCELED, "25P03")
_DEADLOCK = "40P01"
# A transaction's number that was not given to one yet.
_IN_THE_FUTURE = "22023"
_PASSING_AT_ONCE = 100
# Most transactions come and go in less.
_LONG_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 30.0
_ASK_AGAIN_SECONDS = 0.2

Work = Callable[[Session], object]


@dataclass(frozen=True)
class Options:
    """How long clients may have to wait: `deadline_seconds` for the whole transaction, locks included.

    `outcome_seconds`: how long to ask a server that is gone what became of the COMMIT.
    """

    deadline_seconds: float = 0.5
    lock_timeout_seconds: float = 0.2
    largest_backlog: int = 1000
    attempts: int | None = None
    outcome_seconds: float = 60.0

    @property
    def hopeless_backlog(self) -> int:
        """So many rows cannot be caught up under the locks."""
        return self.largest_backlog * 10


@dataclass(frozen=True)
class Swap:
    """One swap. `also` runs inside the transaction (a row of the journal, of migration_log).

    `before` runs on the session of each attempt before its transaction, `first` in it before it locks.
    `happened` says afterwards whether the transaction is there, by what `also` wrote.
    """

    graph: Graph
    direction: Direction
    connect: Callable[[], Session]
    options: Options
    happened: Callable[[Session], bool]
    also: Sequence[Work] = ()
    before: Sequence[Work] = ()
    first: Sequence[Work] = ()
    watch: yielding.Watch | None = None


def run(swap: Swap, reporter: Reporter, waits: Callable[[str | None], None]) -> dict[str, Any]:
    """Swap; evidence {attempts, blocked_milliseconds, blockers}.

    `waits` is told why it waits. Raises MigrationFailed when `options.attempts` are used up (nothing is
    changed), OutcomeUnknown when the server does not come back to say how COMMIT ended.
    """
    blockers: list[str] = []
    pause = _FIRST_PAUSE_SECONDS
    passing = 0
    while True:
        try:
            blocked = _try(swap, _LONG_SECONDS if passing > _PASSING_AT_ONCE else 0.0)
        except _NotNow as error:
            blockers.append(f"cutover attempt {len(blockers) + 1}: {error}")
            passing += error.passing
            at_once = error.passing and passing <= _PASSING_AT_ONCE
        else:
            waits(None)
            return {
                "attempts": len(blockers) + 1,
                "blocked_milliseconds": round(blocked * 1000, 1),
                "blockers": blockers,
            }
        reporter.line(blockers[-1])
        waits(blockers[-1])
        if swap.options.attempts is not None and len(blockers) >= swap.options.attempts:
            raise MigrationFailed(
                f"the cutover did not get through in {len(blockers)} attempts; nothing was changed",
                hint=f"end what is in its way, then run again: {blockers[-1]}",
                blockers=blockers,
            )
        if at_once:
            # Nobody holds anything for long: another moment may be a better one.
            time.sleep(_FIRST_PAUSE_SECONDS * random.random())
            continue
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)


class _NotNow(Exception):
    """An attempt that changed nothing, and why. `passing`: for clients that were only passing by."""

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


def _try(swap: Swap, snapshot_seconds: float) -> float:
    """One attempt: for how many seconds clients could not work. Raises _NotNow.

    `snapshot_seconds`: a transaction that has seen the old tables' world for as long is waited for.
    """
    with swap.connect() as session:
        for work in swap.before:
            work(session)
        snapshots.prepare(session, swap.graph)
        capture.prepare(session, swap.graph, BACK)
        prepared = _Prepared.of(swap, session)
        if (left := _reduce_backlog(swap, session)) > swap.options.hopeless_backlog:
            raise _NotNow(f"clients write faster than rows are caught up: {left} wait")
        try:
            _require_no_snapshot(session, snapshot_seconds)
            return _attempt(swap, prepared, session, snapshot_seconds)
        except (LockNotAvailable, _TooLate) as error:
            why = f"{error}; held by {_held_by(swap, prepared, session)}"
            deadlock = isinstance(error, LockNotAvailable) and error.sqlstate == _DEADLOCK
            raise _NotNow(why, passing=deadlock) from error
        except _SnapshotHeld as error:
            raise _NotNow(str(error), passing=not locking.held_snapshots(session, _LONG_SECONDS)) from error
        except _ConnectionLost as error:
            raise _NotNow(str(error)) from error
        except _Contradiction as error:
            # Outside the locks there is time to see whether the rows stay as they are.
            catch_up.patient_batch(session, swap.graph, swap.direction, None, swap.watch)
            raise _NotNow(str(error)) from error


@dataclass(frozen=True)
class _Prepared:
    """What can be found out before clients have to wait. `patience_seconds`: for all locks together."""

    locks: Sequence[sql.Composed]
    names: Sequence[sql.Identifier]
    also_move: Sequence[sql.Composed]
    complete: frozenset[int]
    patience_seconds: float

    @classmethod
    def of(cls, swap: Swap, session: Session) -> _Prepared:
        graph = swap.graph
        return cls(
            objects.to_lock(session, graph),
            objects.relations_to_lock(session, graph),
            objects.at_cutover(session, graph, swap.direction),
            catch_up.completed(session, graph, swap.direction),
            locking.patience_seconds(session),
        )


class _TooLate(Exception):
    """The transaction took longer than its deadline and was taken back."""


class _Contradiction(Exception):
    """Rows do not fit each other at this moment."""


class _SnapshotHeld(Exception):
    """A client would read old rows in the new tables."""


class _ConnectionLost(Exception):
    """The server says that the transaction has not committed."""


def _require_no_snapshot(session: Session, seconds: float) -> None:
    if found := locking.held_snapshots(session, seconds):
        raise _SnapshotHeld(f"a snapshot of before the swap is held by {'; '.join(found)}")


def _reduce_backlog(swap: Swap, session: Session) -> int:
    """Catch up outside the locks, so that little is left to do inside them; how many rows are."""
    largest = swap.options.largest_backlog
    catch_up.until_small(
        session, swap.graph, swap.direction, small=largest // 4, limit=largest, watch=swap.watch
    )
    left = catch_up.backlog(session, swap.graph, swap.direction)
    if 0 < left <= swap.options.hopeless_backlog:
        # One row may be a parent that has another key now, and all rows that refer to it follow.
        catch_up.patient_batch(session, swap.graph, swap.direction, None, swap.watch)
        left = catch_up.backlog(session, swap.graph, swap.direction)
    return left


def _attempt(swap: Swap, prepared: _Prepared, session: Session, snapshot_seconds: float) -> float:
    """One try; the seconds for which clients could not work.

    Raises LockNotAvailable, _TooLate, _SnapshotHeld or _ConnectionLost when nothing was changed.
    """
    clock = _Clock(swap.options)
    xid: str | None = None
    try:
        with locking.cut_off(session, swap.options.deadline_seconds), session.transaction():
            xid = session.value("SELECT pg_current_xact_id()::text")
            locking.yield_in_deadlocks(session)
            # The disk is waited for once clients can work again. Whatever they commit comes after this.
            session.execute("SET LOCAL synchronous_commit = off")
            for work in swap.first:
                work(session)
            session.execute(_together(session, list(snapshots.guards(swap.graph, swap.direction, xid))))
            steps = _steps(swap, prepared, session)
            for statement in prepared.locks:
                clock.limit(session, prepared.patience_seconds)
                session.execute(statement)
            locked = time.monotonic()
            _require_no_snapshot(session, snapshot_seconds)
            clock.limit(session)
            for step in steps:
                step(session)
                clock.left()
        blocked = time.monotonic() - locked
        _flush(session)
    except DatabaseUnavailable as error:
        if xid is None or not _committed(swap, xid, error):
            raise _ConnectionLost(f"the connection was lost: {error.message}") from error
        blocked = time.monotonic() - locked
    except DatabaseError as error:
        if error.sqlstate in _OUT_OF_TIME:
            raise _TooLate(f"not done within {swap.options.deadline_seconds:g} s") from error
        raise
    return blocked


def _flush(session: Session) -> None:
    """Return when all that is committed is on the disk, and on standbys that commits wait for."""
    message = "SELECT pg_catalog.pg_logical_emit_message(true, 'mandate', 'swapped')"
    try:
        session.execute(message)
    except DatabaseError as error:
        if error.sqlstate != _CANCELED:
            raise
        # The deadline ended right after the COMMIT: what was meant for that must not pass for its failure.
        session.execute(message)


class _Clock:
    """Bounds statements by what is left of the deadline, and the server's patience with a silent us."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._started = time.monotonic()

    def left(self, patience_seconds: float = float("inf")) -> float:
        """Seconds. `patience_seconds`: of what was given at the beginning to all so far. Raises _TooLate."""
        spent = time.monotonic() - self._started
        deadline = self._options.deadline_seconds
        left = min(deadline, patience_seconds) - spent
        if left <= 0 and patience_seconds < deadline:
            raise _TooLate(f"not all locks within {patience_seconds:g} s, half of deadlock_timeout")
        if left <= 0:
            raise _TooLate(f"not done within {deadline:g} s")
        return left

    def limit(self, session: Session, patience_seconds: float = float("inf")) -> None:
        """No statement from now on takes longer than what is left. Raises _TooLate."""
        left = self.left(patience_seconds)
        milliseconds = f"{max(1, round(left * 1000))}ms"
        # A lock timeout counts for each lock, a statement timeout for all of a statement. The last is for
        # a conductor that stands still, or whose network does, while it keeps everybody out.
        session.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),"
            " set_config('idle_in_transaction_session_timeout', %s, true)",
            (f"{round(self._options.lock_timeout_seconds * 1000)}ms", milliseconds, milliseconds),
        )


def _steps(swap: Swap, prepared: _Prepared, session: Session) -> list[Work]:
    """What is done under the locks. Its text is made before them."""
    graph, direction = swap.graph, swap.direction
    exchange = _together(
        session,
        [
            *capture.without_triggers(graph, direction),
            *_moves(swap),
            *prepared.also_move,
        ],
    )
    steps: list[Work] = [
        lambda inside: _drain(swap, prepared, inside),
        lambda inside: inside.execute(exchange),
        *swap.also,
    ]
    if direction.forward:
        back = _together(session, list(capture.triggers(graph, BACK)))
        steps.append(lambda inside: inside.execute(back))
    return steps


def _drain(swap: Swap, prepared: _Prepared, session: Session) -> None:
    try:
        catch_up.drain(session, swap.graph, swap.direction, prepared.complete)
    except CheckFailed as error:
        raise _Contradiction(error.message) from error


def _moves(swap: Swap) -> Iterator[sql.Composed]:
    """Two changes of schema for each table; nothing is renamed."""
    spec = swap.graph.spec
    aside = spec.retained_schema if swap.direction.forward else spec.shadow_schema
    back = spec.shadow_schema if swap.direction.forward else spec.retained_schema
    for schema in sorted({table.old.schema for table in swap.graph.tables}):
        there = sql.Identifier(swap.graph.aside(aside, schema))
        yield sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(there)
    for table in swap.graph.tables:
        schema, name = table.old.schema, table.old.name
        yield _set_schema(schema, name, swap.graph.aside(aside, schema))
        yield _set_schema(swap.graph.aside(back, schema), name, schema)


def _set_schema(schema: str, name: str, to: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(sql.Identifier(schema, name), sql.Identifier(to))


def _together(session: Session, statements: Sequence[sql.Composed]) -> bytes:
    """All at once: each answer to wait for would be time for which clients wait, too."""
    return sql.SQL(";\n").join(statements).as_bytes(session.connection)


def _held_by(swap: Swap, prepared: _Prepared, session: Session) -> str:
    found: list[str] = []
    with suppress(DatabaseError):
        found = locking.holders(session, prepared.names)
    return "; ".join(found) or "nobody any more"


def _committed(swap: Swap, xid: str, error: DatabaseUnavailable) -> bool:
    """What became of a COMMIT whose answer never came. Raises OutcomeUnknown when nobody can say."""
    deadline = time.monotonic() + swap.options.outcome_seconds
    while True:
        with suppress(DatabaseError), swap.connect() as session:
            if not _in_progress(session, xid):
                return swap.happened(session)
        if time.monotonic() > deadline:
            break
        time.sleep(_ASK_AGAIN_SECONDS)
    raise OutcomeUnknown(
        f"the connection was lost while the cutover committed: {error.message}",
        hint="run the same command again when the server is back: it looks at what is there",
        xid=xid,
    ) from error


def _in_progress(session: Session, xid: str) -> bool:
    """A server that has crashed may know nothing of it, and give its number to another transaction."""
    try:
        return bool(session.value("SELECT pg_xact_status(%s::text::xid8) = 'in progress'", (xid,)))
    except DatabaseError as error:
        if error.sqlstate != _IN_THE_FUTURE:
            raise
        return False
