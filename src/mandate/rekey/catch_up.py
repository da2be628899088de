"""Takes keys from the log and makes the destination's rows what the source's rows are now.

State-based: it does not matter what happened to a row or in which order, only what the row is in the
snapshot of the batch. Before and after each batch every destination row is what the maps make of some state
of its source row, and each source row that differs from its destination is in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from mandate.errors import CheckFailed, DatabaseError, MigrationFailed
from mandate.postgres.connection import Session, sql
from mandate.rekey import json_keys, locking, maps, references, yielding
from mandate.rekey.direction import (
    FORWARD,
    Direction,
    equal,
    mapped,
    numbered,
    place_names,
    qualified,
    settle,
    text_array,
)
from mandate.rekey.model import Change, Graph, NewTable
from mandate.rekey.patience import CATCH_UP_SECONDS, patiently

T = TypeVar("T")

_SQL = Path(__file__).parent / "sql"
_FOREIGN_KEYS = (_SQL / "destination_constraints.sql").read_bytes()

# Unique, exclusion and foreign key violations: a row whose log entry is not in the batch is in the way.
_IN_THE_WAY = ("23505", "23P01", "23503")
_INTEGRITY = "23"

# Below this share of a table's rows keys are looked up one by one, whatever the planner knows of the log.
_FEW = 0.05

_BATCHES_IN_VAIN = 4


@dataclass(frozen=True)
class _Taken:
    """What a batch does of a table: `keys` log rows, up to id `bound` (None: all); or the whole table."""

    table: NewTable
    keys: int
    whole: bool = False
    bound: int | None = None


def backlog(session: Session, graph: Graph, direction: Direction) -> int:
    """Rows that are still to be caught up; a truncated table counts with all rows of both sides."""
    rows = session.rows(
        sql.SQL("SELECT l.tab, count(*), bool_or(l.key IS NULL) AS whole FROM {} AS l GROUP BY l.tab").format(
            direction.log(graph)
        )
    )
    total: int = sum(row["count"] for row in rows)
    for row in rows:
        if row["whole"]:
            table = graph.table(row["tab"])
            total += _estimate(session, direction.source(table))
            total += _estimate(session, direction.destination(graph, table))
    return total


def _estimate(session: Session, table: sql.Identifier) -> int:
    """About as many rows as the table's size allows for."""
    rows: int = session.value(
        "SELECT pg_catalog.pg_relation_size(pg_catalog.to_regclass(%s)) / 64",
        (table.as_string(session.connection),),
    )
    return rows


def forget_logged(session: Session, graph: Graph) -> int:
    """Before the primary keys are built: take every logged row out of the shadows; how many there were.

    A row that was written while it was copied may be there twice, once, or not at all. Catch up brings it
    back.
    """
    with session.transaction():
        settle(session, lazily=True)
        session.execute(sql.SQL("ANALYZE {}").format(FORWARD.log(graph)))
        taken = [each for each in _pending(session, graph, FORWARD, None) if each.keys]
        return sum(_forget(session, graph, each) for each in taken)


def _forget(session: Session, graph: Graph, taken: _Taken) -> int:
    destination = FORWARD.destination(graph, taken.table)
    if not taken.whole:
        return session.execute(_delete_by_key(graph, FORWARD, taken))
    session.execute(sql.SQL("TRUNCATE ONLY {}").format(destination))
    return 0


def batch(session: Session, graph: Graph, direction: Direction, limit: int | None) -> int:
    """Catch up about `limit` log rows (None: all) in one transaction; how many it took.

    After a batch of all, and only then, the destination is what the source was at one moment: foreign keys
    can be added to it.
    All log rows of tables that others refer to are taken, so that foreign keys hold at its commit. When a
    row that is not in the batch is in the way all log rows are taken. Raises CheckFailed naming rows that
    cannot be converted, MigrationFailed when the destination refuses what the source has.
    """
    try:
        return _in_snapshot(session, graph, direction, limit)
    except DatabaseError as error:
        if error.sqlstate not in _IN_THE_WAY:
            _refuse(error)
    try:
        return _in_snapshot(session, graph, direction, None)
    except DatabaseError as error:
        _refuse(error)


def patient_batch(
    session: Session,
    graph: Graph,
    direction: Direction,
    limit: int | None,
    watch: yielding.Watch | None = None,
) -> int:
    """`batch`, given time for rows that contradict each other only until their client's next transaction."""

    def once() -> int:
        return yielding.retried(watch, [session], lambda: batch(session, graph, direction, limit))

    return patiently(once, CATCH_UP_SECONDS)


def caught_up(
    session: Session, graph: Graph, direction: Direction, table: NewTable, work: Callable[[], T]
) -> T:
    """Catch up everything, and do `work` in the same transaction: it sees both sides as of one moment.

    Nobody truncates `table` meanwhile. Raises as `batch` does, and what `work` raises.
    """

    def once() -> T:
        try:
            with session.transaction():
                session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                locking.keep_from_truncation(session, direction.source(table))
                settle(session, lazily=True)
                _apply(session, graph, direction, None, completed(session, graph, direction))
                _let_planner_choose(session)
                return work()
        except DatabaseError as error:
            _refuse(error)

    return patiently(once, CATCH_UP_SECONDS)


def _refuse(error: DatabaseError) -> NoReturn:
    """Raise it; as MigrationFailed where the source's rows do not satisfy a constraint of the destination."""
    if not (error.sqlstate or "").startswith(_INTEGRITY):
        raise error
    said = error.fields.get("detail") or error.message
    raise MigrationFailed(
        f"a row that was written meanwhile does not fit the new tables: {error.message}: {said}",
        hint="correct the row, then run again",
        **error.fields,
    ) from error


def _in_snapshot(session: Session, graph: Graph, direction: Direction, limit: int | None) -> int:
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        settle(session, lazily=True)
        return _apply(session, graph, direction, limit, completed(session, graph, direction))


def drain(
    session: Session, graph: Graph, direction: Direction, complete: frozenset[int] | None = None
) -> int:
    """Catch up everything inside the caller's transaction, which keeps writers out; how many log rows.

    `complete`: what `completed` found before anybody had to wait. Foreign keys of the destination are
    checked before it returns, so that the tables can be altered.
    """
    settle(session)
    if complete is None:
        complete = completed(session, graph, direction)
    count = _apply(session, graph, direction, None, complete)
    if count:
        session.execute("SET CONSTRAINTS ALL IMMEDIATE")
    return count


def until_small(
    session: Session,
    graph: Graph,
    direction: Direction,
    *,
    small: int = 250,
    limit: int = 10_000,
    throttle: Callable[[], None] | None = None,
    watch: yielding.Watch | None = None,
) -> int:
    """Batch after batch until at most `small` rows are left; how many log rows it took.

    Or until some batches in a row have left no less than they began with: clients write as fast as rows are
    caught up, and there is no use in going on.
    """
    count, in_vain = 0, 0
    left = backlog(session, graph, direction)
    while left > small and in_vain < _BATCHES_IN_VAIN:
        if throttle is not None:
            throttle()
        before = left
        count += patient_batch(session, graph, direction, limit, watch)
        left = backlog(session, graph, direction)
        in_vain = in_vain + 1 if left >= before else 0
    return count


# -- one batch -------------------------------------------------------------------------------------------


def _apply(
    session: Session, graph: Graph, direction: Direction, limit: int | None, complete: frozenset[int]
) -> int:
    """The order matters: rows leave by the maps that they were written by, and come by those of now."""
    taken = _with_json(graph, direction, _pending(session, graph, direction, limit, complete))
    if not any(each.keys for each in taken):
        return 0
    moved = _mark_moved(session, graph, direction, taken)
    if moved:
        _log_references(session, graph, direction, moved)
        taken = _widened(taken)
    for each in reversed(taken):
        _delete(session, graph, direction, each)
    _delete_moved(session, graph, direction, moved)
    for change, owner in _parents(graph, direction, taken):
        _prefer_index(session, owner, whole=change.key.query is not None)
        maps.follow(session, graph, direction, change, _parent_keys(graph, direction, change, owner))
    for each in taken:
        _insert(session, graph, direction, each)
    return sum(_forget_log(session, graph, direction, each) for each in taken)


def completed(session: Session, graph: Graph, direction: Direction) -> frozenset[int]:
    """Old oids of the tables that a batch takes all log rows of: parents, and what others refer to.

    Raises MigrationFailed for a foreign key that would act when a row is deleted and comes back.
    """
    rows = session.rows(
        _FOREIGN_KEYS,
        {
            "tabs": [table.old.oid for table in graph.tables],
            "names": [
                direction.destination(graph, table).as_string(session.connection) for table in graph.tables
            ],
        },
    )
    wrong = [f"{row['name']} on {row['child']}" for row in rows if not row["harmless"]]
    if wrong:
        raise MigrationFailed(
            f"these foreign keys must be NO ACTION and initially deferred to be caught up: {', '.join(wrong)}"
        )
    owners = {graph.owner(change).old.oid for change in mapped(graph)}
    return frozenset({row["tab"] for row in rows} | owners)


def _pending(
    session: Session,
    graph: Graph,
    direction: Direction,
    limit: int | None,
    complete: frozenset[int] = frozenset(),
) -> list[_Taken]:
    """What to do of each table, in the graph's order; with keys = 0 for one that nothing is logged of."""
    rows = session.rows(
        sql.SQL(
            "SELECT l.tab, count(*) AS keys, bool_or(l.key IS NULL) AS whole, max(l.id) AS last"
            " FROM {} AS l GROUP BY l.tab"
        ).format(direction.log(graph))
    )
    found = {row["tab"]: row for row in rows}
    bounded = [oid for oid, row in found.items() if oid not in complete and not row["whole"]]
    bound = None if limit is None or not bounded else _bound(session, graph, direction, bounded, limit)
    return [
        _Taken(
            table,
            found[table.old.oid]["keys"],
            found[table.old.oid]["whole"],
            bound if table.old.oid in bounded else None,
        )
        if table.old.oid in found
        else _Taken(table, 0, bound=0 if table.old.oid not in complete and limit is not None else None)
        for table in graph.tables
    ]


def _bound(session: Session, graph: Graph, direction: Direction, tables: Sequence[int], limit: int) -> int:
    """The id of the `limit`-th log row of these tables, or of the last."""
    bound: int = session.value(
        sql.SQL(
            "SELECT max(id) FROM (SELECT id FROM {} WHERE tab = ANY (%s::bigint[]) ORDER BY id LIMIT %s) AS f"
        ).format(direction.log(graph)),
        (list(tables), limit),
    )
    return bound


def _widened(taken: Sequence[_Taken]) -> list[_Taken]:
    """With the keys that the batch itself has logged; a table that it takes a part of keeps its bound."""
    return [
        _Taken(each.table, each.keys or 1, each.whole, None) if each.bound is None else each for each in taken
    ]


def _with_json(graph: Graph, direction: Direction, taken: list[_Taken]) -> list[_Taken]:
    """What stands in JSON refers to no row that a foreign key knows: a parent's change means all of it."""
    if not direction.forward:
        return taken
    holders = {
        table.old.oid
        for change, _ in _parents(graph, direction, taken)
        for table in json_keys.holders(graph, change)
    }
    return [
        _Taken(each.table, max(1, each.keys), whole=True) if each.table.old.oid in holders else each
        for each in taken
    ]


def _parents(graph: Graph, direction: Direction, taken: Sequence[_Taken]) -> Iterator[tuple[Change, _Taken]]:
    """Changes whose map may be another now, with what is taken of the parent.

    A query may read any parent.
    """
    by_oid = {each.table.old.oid: each for each in taken}
    written = any(by_oid[graph.owner(change).old.oid].keys for change in mapped(graph))
    for change in mapped(graph):
        owner = by_oid[graph.owner(change).old.oid]
        if owner.keys or (written and direction.forward and change.key.query is not None):
            yield change, owner


def _parent_keys(graph: Graph, direction: Direction, change: Change, taken: _Taken) -> sql.Composed | None:
    """The relation of a parent's keys; None: all of them."""
    if taken.whole or (direction.forward and change.key.query is not None):
        return None
    return direction.keys(graph, taken.table, taken.bound)


def _mark_moved(
    session: Session, graph: Graph, direction: Direction, taken: Sequence[_Taken]
) -> list[Change]:
    moved = []
    for change, owner in _parents(graph, direction, taken):
        _prefer_index(session, owner, whole=change.key.query is not None)
        if maps.mark_moved(session, graph, direction, change, _parent_keys(graph, direction, change, owner)):
            moved.append(change)
    _let_planner_choose(session)
    return moved


def _holding(graph: Graph, change: Change) -> Iterator[tuple[NewTable, int]]:
    """The tables that hold a change's key, with the number of the group."""
    for table in graph.tables:
        for number, group in enumerate(table.groups):
            if group.change.number == change.number:
                yield table, number


def _log_references(session: Session, graph: Graph, direction: Direction, moved: Sequence[Change]) -> None:
    """Log the source rows that refer to a parent whose key is another now."""
    for change in moved:
        side = numbered(change, direction.prefixes[0])
        for table, number in _holding(graph, change):
            group = table.groups[number]
            if group.owner and change.key.query is None:
                continue
            session.execute(
                sql.SQL(
                    "INSERT INTO {} (tab, key) SELECT {}, {} FROM {} AS s"
                    " WHERE ({}) IN (SELECT {} FROM {} AS m)"
                ).format(
                    direction.log(graph),
                    sql.Literal(table.old.oid),
                    text_array(sql.Identifier("s"), direction.logged(table)),
                    direction.source(table),
                    qualified(sql.Identifier("s"), direction.source_columns(group)),
                    qualified(sql.Identifier("m"), side),
                    maps.moved_table(graph, change),
                )
            )


def _delete(session: Session, graph: Graph, direction: Direction, taken: _Taken) -> None:
    if not taken.keys:
        return
    if taken.whole:
        session.execute(sql.SQL("DELETE FROM {}").format(direction.destination(graph, taken.table)))
        return
    _prefer_index(session, taken)
    session.execute(_delete_by_key(graph, direction, taken))


def _delete_by_key(graph: Graph, direction: Direction, taken: _Taken) -> sql.Composed:
    table = taken.table
    keys = direction.keys(graph, table, taken.bound)
    names = direction.destination_key(table)
    return sql.SQL("DELETE FROM {} AS d USING ({}) AS t WHERE {}").format(
        direction.destination(graph, table),
        direction.destination_keys(graph, table, keys),
        equal(sql.Identifier("d"), names, sql.Identifier("t"), names),
    )


def _delete_moved(session: Session, graph: Graph, direction: Direction, moved: Sequence[Change]) -> None:
    """Rows that hold a key which is about to mean nothing, or another parent."""
    _let_planner_choose(session)
    for change in moved:
        for table, number in reversed(list(_holding(graph, change))):
            group = table.groups[number]
            session.execute(
                sql.SQL("DELETE FROM {} AS d USING {} AS m WHERE {}").format(
                    direction.destination(graph, table),
                    maps.moved_table(graph, change),
                    equal(
                        sql.Identifier("d"),
                        direction.destination_columns(group),
                        sql.Identifier("m"),
                        place_names(group, direction.prefixes[1]),
                    ),
                )
            )


def _insert(session: Session, graph: Graph, direction: Direction, taken: _Taken) -> None:
    if not taken.keys:
        return
    _prefer_index(session, taken)
    source = direction.source(taken.table) if taken.whole else _source_rows(graph, direction, taken)
    wrong = references.problems_of(session, graph, direction, taken.table, source)
    if wrong:
        raise CheckFailed(
            "rows that were written meanwhile cannot be converted:\n"
            + "\n".join(f"  {line}" for line in wrong),
            hint="correct them, then run again",
            problems=wrong,
        )
    session.execute(direction.insert(graph, taken.table, direction.rows(graph, taken.table, source)))


def _source_rows(graph: Graph, direction: Direction, taken: _Taken) -> sql.Composed:
    key = direction.source_key(taken.table)
    return sql.SQL("(SELECT s.* FROM {} AS s WHERE ({}) IN (SELECT {} FROM {} AS k))").format(
        direction.source(taken.table),
        qualified(sql.Identifier("s"), key),
        qualified(sql.Identifier("k"), key),
        direction.keys(graph, taken.table, taken.bound),
    )


def _forget_log(session: Session, graph: Graph, direction: Direction, taken: _Taken) -> int:
    if not taken.keys:
        return 0
    bound = sql.SQL("") if taken.bound is None else sql.SQL(" AND id <= {}").format(sql.Literal(taken.bound))
    return session.execute(
        sql.SQL("DELETE FROM {} WHERE tab = {}{}").format(
            direction.log(graph), sql.Literal(taken.table.old.oid), bound
        )
    )


# -- plans -----------------------------------------------------------------------------------------------


def _prefer_index(session: Session, taken: _Taken, *, whole: bool = False) -> None:
    """Few keys: look each up. The log has no statistics worth the name, and a scan would take too long."""
    rows = max(taken.table.old.rows, 20 * taken.table.old.blocks)
    few = taken.keys < max(100.0, rows * _FEW) and not taken.whole and not whole
    _plan(session, "off" if few else "on")


def _let_planner_choose(session: Session) -> None:
    _plan(session, "on")


def _plan(session: Session, joins: str) -> None:
    session.execute(
        "SELECT pg_catalog.set_config('enable_hashjoin', %(on)s, true),"
        " pg_catalog.set_config('enable_mergejoin', %(on)s, true)",
        {"on": joins},
    )
