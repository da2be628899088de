"""Does a little of a key change for real, measures it, and takes it back.

Everything happens in one transaction that is rolled back. The old tables are read like by any query; nothing
of the sample is ever seen by anybody else, and its space is given back at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import cycle

from mandate.errors import CheckFailed, DatabaseError, MigrationFailed
from mandate.postgres.connection import Session, sql
from mandate.rekey import build, crew, maps, row_hash, shadow, yielding
from mandate.rekey.catalogue import Catalogue
from mandate.rekey.direction import FORWARD, mapped, settle
from mandate.rekey.estimate import IndexSample, TableSample
from mandate.rekey.fingerprint import fingerprint_hashed
from mandate.rekey.model import Graph, NewTable

COPY_SECONDS = 1.0
_LONGEST_SECONDS = 60
# The sample is spread over the table: its old and its new rows may differ in width.
_PLACES = 8
_FIRST_BLOCKS = 16
_LEAST_SECONDS = 0.02


class CannotSample(Exception):
    """There is no sample, for the reason that is its text."""


class _TakeBack(Exception):
    """Ends the sample's transaction."""


def take(
    session: Session,
    graph: Graph,
    kept: Catalogue,
    *,
    copy_seconds: float = COPY_SECONDS,
    watch: yielding.Watch | None = None,
) -> dict[str, TableSample]:
    """Copy for about `copy_seconds`, build over that, and take it back; by table. Raises CannotSample."""
    if session.value("SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL", (graph.spec.shadow_schema,)):
        raise CannotSample("a change of this name is under way")
    once = partial(_take, session, graph, kept, copy_seconds)
    try:
        return yielding.retried(watch, [session], once)
    except (DatabaseError, CheckFailed, MigrationFailed) as error:
        raise CannotSample(error.message) from error


def _take(session: Session, graph: Graph, kept: Catalogue, seconds: float) -> dict[str, TableSample]:
    found: dict[str, TableSample] = {}
    total = sum(max(1, table.old.blocks) for table in graph.tables)
    with suppress(_TakeBack), session.transaction():
        _prepare(session, graph, kept)
        for table in graph.tables:
            share = max(1, table.old.blocks) / total
            found[str(table)] = _sample(session, graph, kept, table, seconds * share)
        raise _TakeBack
    return found


def _prepare(session: Session, graph: Graph, kept: Catalogue) -> None:
    settle(session, lazily=True)
    session.execute(
        "SELECT pg_catalog.set_config('lock_timeout', '1s', true),"
        " pg_catalog.set_config('statement_timeout', %s, true)",
        (f"{_LONGEST_SECONDS}s",),
    )
    session.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(graph.spec.work_schema)))
    for change in mapped(graph):
        # As a view: no parent is read but those that sampled rows refer to.
        session.execute(
            sql.SQL("CREATE VIEW {} AS {}").format(
                maps.map_table(graph, change), maps.current(graph, change, typed=True)
            )
        )
    row_hash.make(session, graph.spec.work_schema)
    shadow.create_schemas(session, graph, kept)
    for table in graph.tables:
        shadow.create_table(session, graph, kept, table)


def _sample(session: Session, graph: Graph, kept: Catalogue, table: NewTable, seconds: float) -> TableSample:
    blocks: int = session.value(
        "SELECT pg_catalog.pg_relation_size(%s::bigint::oid::regclass)"
        " / pg_catalog.current_setting('block_size')::bigint",
        (table.old.oid,),
    )
    rows, copied, took = _copy(session, graph, table, blocks, max(_LEAST_SECONDS, seconds))
    heap, toast = _sizes(session, graph, table)
    indexes, finish, statistics = _build(session, graph, kept, table)
    hashed = row_hash.expression(session, FORWARD.destination_types(table), graph.spec.work_schema)
    started = time.monotonic()
    fingerprint_hashed(session, sql.SQL("SELECT * FROM {}").format(FORWARD.destination(graph, table)), hashed)
    hashing = time.monotonic() - started
    share = copied / blocks if blocks else 0.0
    return TableSample(share, rows, heap, toast, took, finish, statistics, hashing, indexes)


def _copy(
    session: Session, graph: Graph, table: NewTable, blocks: int, budget: float
) -> tuple[int, int, float]:
    """Rows, blocks and seconds of a copy in growing pieces from several places, until the time is used up."""
    rows, copied, took = 0, 0, 0.0
    for first, last in pieces(blocks):
        started = time.monotonic()
        rows += session.execute(_insert(graph, table, first, last))
        took += time.monotonic() - started
        copied += last - first
        if took >= budget:
            break
    return rows, copied, took


def pieces(blocks: int) -> Iterator[tuple[int, int]]:
    """Ranges of blocks that together are the table, taken in turn from places spread over it. Pure."""
    places = min(_PLACES, max(1, blocks // _FIRST_BLOCKS))
    bounds = [blocks * number // places for number in range(places + 1)]
    at, size = bounds[:-1], _FIRST_BLOCKS
    for number in cycle(range(places)):
        if all(here >= end for here, end in zip(at, bounds[1:], strict=True)):
            return
        last = min(bounds[number + 1], at[number] + size)
        if last > at[number]:
            yield at[number], last
        at[number] = last
        if number == places - 1:
            size *= 2


def _insert(graph: Graph, table: NewTable, first: int, last: int) -> sql.Composed:
    source = sql.SQL("(SELECT s.* FROM ONLY {} AS s WHERE s.ctid >= {}::tid AND s.ctid < {}::tid)").format(
        FORWARD.source(table), sql.Literal(f"({first},0)"), sql.Literal(f"({last},0)")
    )
    return FORWARD.insert(graph, table, FORWARD.rows(graph, table, source))


def _sizes(session: Session, graph: Graph, table: NewTable) -> tuple[int, int]:
    """Heap and toast of the sample; blocks that were only set aside for what comes next do not count."""
    there = FORWARD.destination(graph, table)
    heap: int = session.value(
        sql.SQL(
            "SELECT coalesce(((pg_catalog.max(ctid)::text::point)[0] + 1)::bigint, 0)"
            " * pg_catalog.current_setting('block_size')::bigint FROM {}"
        ).format(there)
    )
    toast: int = session.value(
        "SELECT CASE WHEN reltoastrelid <> 0 THEN pg_catalog.pg_total_relation_size(reltoastrelid) ELSE 0 END"
        " FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s)",
        (there.as_string(session.connection),),
    )
    return heap, toast


def _build(
    session: Session, graph: Graph, kept: Catalogue, table: NewTable
) -> tuple[dict[str, IndexSample], float, float]:
    """The indexes one after another, and the seconds for constraints and for statistics."""
    found: dict[str, IndexSample] = {}
    later = {1: 0.0, 2: 0.0}
    tasks: Sequence[crew.Task] = build.of_table(graph, kept, table)
    for task in tasks:
        started = time.monotonic()
        for statement in task.statements:
            session.execute(statement)
        took = time.monotonic() - started
        if task.stage:
            later[task.stage] += took
        else:
            name = task.name.removeprefix("index ")
            found[name] = IndexSample(_index_size(session, graph.shadow_schema(table.old.schema), name), took)
    return found, later[1], later[2]


def _index_size(session: Session, schema: str, name: str) -> int:
    size: int = session.value(
        "SELECT pg_catalog.pg_relation_size("
        "pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', %s::text, %s::text)))",
        (schema, name),
    )
    return size
