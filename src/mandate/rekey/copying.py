"""Copies the old tables' rows into the shadows: ranges of blocks, each a transaction with its journal row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

from mandate.postgres.connection import Session, sql
from mandate.progress import Reporter, Task
from mandate.rekey import maps, references, yielding
from mandate.rekey.direction import FORWARD, settle, text_array
from mandate.rekey.model import Graph, NewTable
from mandate.rekey.patience import FILL_SECONDS, patiently

Connect = Callable[[], Session]
Throttle = Callable[[], None]

ONLINE_SECONDS = 0.2
OFFLINE_SECONDS = 0.5
# What a slow machine copies; the first chunk of each table is sized by it.
_BLOCKS_PER_SECOND = 1000
_LARGEST_BLOCKS = 65536


def run(
    connect: Connect,
    graph: Graph,
    jobs: int,
    reporter: Reporter,
    throttle: Throttle | None = None,
    *,
    target_seconds: float = OFFLINE_SECONDS,
    watch: yielding.Watch | None = None,
) -> int:
    """Copy what is not yet copied, with `jobs` sessions; the rows in all shadows.

    `throttle` is called before each chunk, by one worker at a time, and may wait or raise. A chunk is sized
    to take `target_seconds`. Resumes where a killed run stopped. Raises DatabaseError.
    """
    with connect() as session:
        if not session.value(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(_chunks(graph))):
            # Parents that were born after the maps were filled and before capture began are in no log.
            fill = partial(yielding.retried, watch, [session], lambda: maps.fill(session, graph, again=True))
            patiently(fill, FILL_SECONDS)
        size = max(1, round(target_seconds * _BLOCKS_PER_SECOND))
        todo = [_todo(session, graph, table, size) for table in graph.tables]
        queue = _Queue(todo, target_seconds, throttle, watch)
    with reporter.task("copy", total=queue.total, unit="blocks") as task, ThreadPoolExecutor(jobs) as pool:
        task.update(queue.done)
        try:
            wait([pool.submit(_work, connect, graph, queue, task) for _ in range(jobs)])
        except BaseException as error:
            queue.fail(error)
            raise
    if queue.error is not None:
        raise queue.error
    with connect() as session:
        rows: int = session.value(
            sql.SQL("SELECT coalesce(sum(rows), 0)::bigint FROM {}").format(_chunks(graph))
        )
    return rows


def _chunks(graph: Graph) -> sql.Identifier:
    return sql.Identifier(graph.spec.work_schema, "chunk")


@dataclass
class _Todo:
    """Block ranges of a table that are still to be copied."""

    table: NewTable
    ranges: list[tuple[int, int]]
    blocks: int
    filenode: int
    size: int

    @property
    def left(self) -> int:
        return sum(last - first for first, last in self.ranges)


@dataclass(frozen=True)
class _Chunk:
    todo: _Todo
    first: int
    last: int


def _todo(session: Session, graph: Graph, table: NewTable, first_size: int) -> _Todo:
    """Up to the table's end as it is now: what comes behind it was captured."""
    filenode = _filenode(session, table)
    blocks: int = session.value(
        "SELECT pg_catalog.pg_relation_size(%s::bigint::oid::regclass)"
        " / pg_catalog.current_setting('block_size')::bigint",
        (table.old.oid,),
    )
    rows = session.rows(
        sql.SQL("SELECT first, last FROM {} WHERE tab = %s ORDER BY first").format(_chunks(graph)),
        (table.old.oid,),
    )
    done = [(row["first"], blocks if row["last"] is None else row["last"]) for row in rows]
    return _Todo(table, list(_gaps(done, blocks)), blocks, filenode, first_size)


def _gaps(done: Sequence[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """What of [0, end) is in none of the ranges, which are in order and do not overlap."""
    at = 0
    for first, last in done:
        if first > at:
            yield at, min(first, end)
        at = max(at, last)
    if at < end:
        yield at, end


@dataclass
class _Queue:
    """Hands out chunks, of the table with the most left first; ends at the first error.

    Of a table that nobody works on before others: two sessions that write to one table wait for each other
    to make it longer.
    """

    todo: list[_Todo]
    target_seconds: float
    throttle: Throttle | None
    watch: yielding.Watch | None = None
    error: BaseException | None = None
    lock: Lock = field(default_factory=Lock)
    gate: Lock = field(default_factory=Lock)
    at_work: Counter[int] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(each.blocks for each in self.todo)

    @property
    def done(self) -> int:
        return self.total - sum(each.left for each in self.todo)

    def take(self) -> _Chunk | None:
        """The next chunk, when it may be worked on; None: nothing is left, or somebody failed."""
        if self.throttle is not None:
            with self.gate:
                if self.error is None:
                    self.throttle()
        with self.lock:
            left = [each for each in self.todo if each.ranges]
            if self.error is not None or not left:
                return None
            todo = min(left, key=lambda each: (self.at_work[each.table.old.oid], -each.left))
            self.at_work[todo.table.old.oid] += 1
            first, end = todo.ranges[0]
            last = min(end, first + todo.size)
            todo.ranges[0:1] = [(last, end)] if last < end else []
            return _Chunk(todo, first, last)

    def learn(self, chunk: _Chunk, seconds: float) -> None:
        """It is done. Size the next chunks by how long it took; never more than twice the size at once."""
        factor = min(2.0, max(0.25, self.target_seconds / max(seconds, 0.001)))
        with self.lock:
            self.at_work[chunk.todo.table.old.oid] -= 1
            wanted = round((chunk.last - chunk.first) * factor)
            chunk.todo.size = max(1, min(_LARGEST_BLOCKS, chunk.todo.size * 2, wanted))

    def fail(self, error: BaseException) -> None:
        with self.lock:
            self.error = self.error or error


def _work(connect: Connect, graph: Graph, queue: _Queue, task: Task) -> None:
    """One worker: chunk after chunk on a session of its own."""
    try:
        with connect() as session:
            while (chunk := queue.take()) is not None:
                started = time.monotonic()
                yielding.retried(queue.watch, [session], partial(_copy, session, graph, chunk))
                queue.learn(chunk, time.monotonic() - started)
                with queue.lock:
                    task.update(queue.done, note=chunk.todo.table.old.name)
    except BaseException as error:
        queue.fail(error)
        raise


def _copy(session: Session, graph: Graph, chunk: _Chunk) -> None:
    """One chunk: its rows and its row in the journal, or neither."""
    table = chunk.todo.table
    with session.transaction():
        settle(session, lazily=True)
        rows = session.execute(_insert(graph, table, chunk.first, chunk.last))
        _log_unsound(session, graph, chunk, rows)
        filenode: int | None = _filenode(session, table)
        if filenode != chunk.todo.filenode or _was_rewritten(session, graph, table, filenode):
            # VACUUM FULL, CLUSTER or TRUNCATE moved the rows: catch up copies the whole table.
            session.execute(
                sql.SQL("INSERT INTO {} (tab, key) VALUES (%s, NULL)").format(FORWARD.log(graph)),
                (table.old.oid,),
            )
            filenode = None
        session.execute(
            sql.SQL("INSERT INTO {} (tab, first, last, rows, filenode) VALUES (%s, %s, %s, %s, %s)").format(
                _chunks(graph)
            ),
            (table.old.oid, chunk.first, chunk.last, rows, filenode),
        )


def _filenode(session: Session, table: NewTable) -> int:
    """The file a table's rows are in."""
    number: int = session.value(
        "SELECT pg_catalog.pg_relation_filenode(%s::bigint::oid::regclass)::bigint", (table.old.oid,)
    )
    return number


def _was_rewritten(session: Session, graph: Graph, table: NewTable, filenode: int) -> bool:
    return bool(
        session.value(
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE tab = %s AND filenode <> %s)").format(
                _chunks(graph)
            ),
            (table.old.oid, filenode),
        )
    )


def _source(table: NewTable, first: int, last: int) -> sql.Composed:
    return sql.SQL("(SELECT s.* FROM ONLY {} AS s WHERE s.ctid >= {}::tid AND s.ctid < {}::tid)").format(
        FORWARD.source(table), sql.Literal(f"({first},0)"), sql.Literal(f"({last},0)")
    )


def _log_unsound(session: Session, graph: Graph, chunk: _Chunk, copied: int) -> None:
    """Rows that were left out have to come by way of the log.

    Most were written since capture began and are in it; not those whose parent was changed just before.
    """
    table = chunk.todo.table
    sound = references.sound(FORWARD, table)
    source = _source(table, chunk.first, chunk.last)
    if sound is None or session.value(sql.SQL("SELECT count(*) FROM {} AS o").format(source)) <= copied:
        return
    session.execute(
        sql.SQL("INSERT INTO {} (tab, key) SELECT {}, {} FROM {} AS {}{} WHERE NOT ({})").format(
            FORWARD.log(graph),
            sql.Literal(table.old.oid),
            text_array(FORWARD.alias, FORWARD.logged(table)),
            source,
            FORWARD.alias,
            FORWARD.joins(graph, table),
            sound,
        )
    )


def _insert(graph: Graph, table: NewTable, first: int, last: int) -> sql.Composed:
    """Of the rows in these blocks those that are sound."""
    rows = FORWARD.rows(graph, table, _source(table, first, last))
    sound = references.sound(FORWARD, table)
    if sound is not None:
        rows += sql.SQL(" WHERE {}").format(sound)
    return FORWARD.insert(graph, table, rows)
