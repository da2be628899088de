"""Reads what an estimate is made of: sizes and widths, the server's settings, earlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mandate.errors import DatabaseError
from mandate.postgres.connection import Row, Session, sql
from mandate.rekey import build, catalogue, estimate, journal, maps
from mandate.rekey.catalogue import Catalogue, Index
from mandate.rekey.direction import mapped
from mandate.rekey.estimate import Earlier, IndexSize, Part, Server, TableSize
from mandate.rekey.model import Change, Graph, NewTable
from mandate.rekey.rewriting import CannotRewrite, successors

_SIZES = (Path(__file__).parent / "sql" / "sizes.sql").read_bytes()
_PARENTS_READ = 1000
# A text that nobody has seen yet.
_UNKNOWN_WIDTH = 32
# Clients' statistics arrive once a second: a shorter look says nothing about how much they write.
WINDOW_SECONDS = 2.0
Widths = Mapping[int, tuple[float, ...]]


def tables(
    session: Session, graph: Graph, kept: Catalogue, *, read_rows: bool
) -> tuple[list[TableSize], list[Part]]:
    """The old tables, and what else a run makes: maps, and the copies of materialised views.

    `read_rows`: measure the new keys on a thousand parents; else only the catalogue is read.
    """
    views = [view for view in kept.views if view.materialized and view.populated]
    oids = [table.old.oid for table in graph.tables] + [view.oid for view in views]
    rows = {row["oid"]: row for row in session.rows(_SIZES, {"relations": oids})}
    widths = {change.number: _new_widths(session, graph, change, rows, read_rows) for change in graph.changes}
    sizes = [_table(session, graph, kept, table, rows[table.old.oid], widths) for table in graph.tables]
    extra = [
        Part(
            "materialised views",
            row["heap_bytes"] + row["toast_bytes"] + row["index_bytes"],
            row["tablespace"],
        )
        for row in (rows[view.oid] for view in views)
    ]
    return sizes, extra + [_map(graph, change, rows, widths) for change in mapped(graph)]


def _table(
    session: Session, graph: Graph, kept: Catalogue, table: NewTable, row: Row, widths: Widths
) -> TableSize:
    old = row["widths"]
    new = _column_widths(table, old, widths)
    gone = [old[name] for name in old if name not in new or new[name] != old[name]]
    come = [new[name] for name in new if name not in old or new[name] != old[name]]
    entries = row["rows"] or _rows(row)
    made = _indexes(graph, kept, table)
    return TableSize(
        str(table),
        entries,
        row["heap_bytes"],
        row["toast_bytes"],
        tuple(_index(index, table, old, new) for index in made),
        row["tablespace"],
        estimate.row_growth(old.values(), gone, come),
    )


def _rows(row: Row) -> int:
    """For a table that was never analysed."""
    return int(row["heap_bytes"] / estimate.row_bytes(row["widths"].values()))


def _column_widths(table: NewTable, old: Mapping[str, float], widths: Widths) -> dict[str, float]:
    """Width of each new column."""
    found: dict[str, float] = {}
    for column in table.columns:
        if column.group is None:
            found[column.name] = old.get(column.source or "", _UNKNOWN_WIDTH)
        else:
            found[column.name] = widths[table.groups[column.group].change.number][column.place]
    return found


def _indexes(graph: Graph, kept: Catalogue, table: NewTable) -> list[Index]:
    """Those that will be built; where that cannot be said, all."""
    exclusions = [index for index in catalogue.of(kept.indexes, table.old.oid) if index.exclusion]
    try:
        return [built.index for built in build.indexes(graph, kept, table)] + exclusions
    except CannotRewrite:
        return list(catalogue.of(kept.indexes, table.old.oid))


def _index(index: Index, table: NewTable, old: Mapping[str, float], new: Mapping[str, float]) -> IndexSize:
    """Its entries grow with the columns that change; an expression is taken to stay as wide."""
    columns = index.columns or ()
    changed = successors(table)
    before = [old[name] for name in columns if name in old]
    names = dict.fromkeys(new_name for name in columns for new_name in changed.get(name, (name,)))
    after = [new[name] for name in names if name in new]
    growth = estimate.entry_bytes(after) / estimate.entry_bytes(before) if before and after else 1.0
    partial = " WHERE " in index.definition
    return IndexSize(index.name, index.bytes, index.tablespace, max(1.0, growth), partial)


# -- new keys ----------------------------------------------------------------------------------------


def _new_widths(
    session: Session, graph: Graph, change: Change, rows: Mapping[int, Row], read_rows: bool
) -> tuple[float, ...]:
    """Width of each column of a new key."""
    owner = graph.owner(change)
    known = rows[owner.old.oid]["widths"]
    by_type = tuple(
        known.get(column.name, _UNKNOWN_WIDTH) if column.existing else _type_width(session, type_)
        for column, type_ in zip(change.key.new, change.new_types, strict=True)
    )
    return (_measured(session, graph, change) if read_rows else None) or by_type


def _type_width(session: Session, type_: str) -> float:
    length = session.value(
        "SELECT typlen FROM pg_catalog.pg_type WHERE oid = pg_catalog.to_regtype(%s)", (type_,)
    )
    return float(length) if length and length > 0 else _UNKNOWN_WIDTH


def _measured(session: Session, graph: Graph, change: Change) -> tuple[float, ...] | None:
    """From a thousand parents; None when there are none, or the expression fails: `map` will say how."""
    values = [
        sql.SQL("avg(pg_catalog.pg_column_size(c.{}))::float8 AS {}").format(name, name)
        for name in (sql.Identifier(f"n{place}") for place in range(1, len(change.new_types) + 1))
    ]
    query = sql.SQL("SELECT {} FROM ({} LIMIT {}) AS c").format(
        sql.SQL(", ").join(values), maps.current(graph, change, typed=True), sql.Literal(_PARENTS_READ)
    )
    try:
        with session.transaction():
            row = session.row(query)
    except DatabaseError:
        return None
    found = tuple((row or {}).values())
    return found if found and None not in found else None


def _map(graph: Graph, change: Change, rows: Mapping[int, Row], widths: Widths) -> Part:
    """Old key, new key and what is dropped, a row for each parent, and two indexes."""
    owner = graph.owner(change)
    known = rows[owner.old.oid]["widths"]
    old = [known[name] for name in change.key.columns]
    new = widths[change.number]
    gone = [known[name] for name in change.key.drop]
    row = estimate.row_bytes([*old, *new, *gone])
    entries = estimate.entry_bytes(old) + estimate.entry_bytes(new)
    return Part("maps of keys", round(owner.old.rows * (row + entries) * 1.1))


def keys(graph: Graph) -> int:
    """Parents whose keys go through a map."""
    return sum(graph.owner(change).old.rows for change in mapped(graph))


def references(kept: Catalogue) -> dict[str, int]:
    """Foreign keys by child."""
    found: dict[str, int] = {}
    for key in kept.foreign_keys:
        name = f"{key.child_schema}.{key.child_name}"
        found[name] = found.get(name, 0) + 1
    return found


# -- the server --------------------------------------------------------------------------------------


_SETTINGS = """
SELECT
    current_setting('wal_level') AS wal_level,
    current_setting('full_page_writes')::boolean AS full_page_writes,
    current_setting('wal_log_hints')::boolean OR current_setting('data_checksums')::boolean
        AS page_images_of_hints,
    pg_size_bytes(current_setting('max_wal_size')) AS max_wal_bytes,
    EXISTS (SELECT FROM pg_replication_slots WHERE NOT active) AS wal_is_held,
    pg_size_bytes(current_setting('maintenance_work_mem')) AS sort_memory_bytes,
    nullif(trim(split_part(current_setting('temp_tablespaces'), ',', 1), ' "'), '') AS temp_tablespace
"""


def server(session: Session) -> Server:
    """Settings that decide about WAL and sorting."""
    row = session.row(_SETTINGS)
    assert row is not None
    return Server(**row)


def writes(session: Session, graph: Graph) -> int:
    """Rows that clients have written to the tables since the statistics were reset."""
    count: int = session.value(
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint"
        " FROM pg_catalog.pg_stat_user_tables WHERE relid = ANY (%s::bigint[]::oid[])",
        ([table.old.oid for table in graph.tables],),
    )
    return count


def has_clients(session: Session) -> bool:
    """Whether anybody else is connected to the database."""
    return bool(
        session.value(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend')"
        )
    )


def with_writes(server: Server, before: int, after: int, seconds: float) -> Server:
    """The server, with the rate of writes between two readings."""
    return replace(server, writes_per_second=max(0, after - before) / seconds if seconds > 0 else None)


# -- earlier runs ------------------------------------------------------------------------------------

_EARLIER = """
SELECT r.id, r.started_at, jsonb_object_agg(p.phase, p.evidence) AS phases
FROM mandate_conductor.rekeys r JOIN mandate_conductor.rekey_phases p ON p.rekey = r.id
WHERE r.name = %s AND p.finished_at IS NOT NULL
GROUP BY r.id HAVING array_agg(p.phase) @> ARRAY['copy', 'build', 'verify'] ORDER BY r.id DESC LIMIT 1
"""


def earlier(session: Session, name: str) -> Earlier | None:
    """The newest run of a change of that name that got as far as its verification, in this database."""
    row = session.row(_EARLIER, (name,)) if journal.exists(session) else None
    if row is None:
        return None
    phases: dict[str, dict[str, Any]] = row["phases"]
    seconds = dict(_in_order({name: phase.get("seconds", 0.0) for name, phase in phases.items()}))
    return Earlier(f"{row['started_at']:%Y-%m-%d %H:%M}", int(phases["copy"].get("rows", 0)), seconds)


def _in_order(seconds: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    order: Sequence[str] = journal.PHASES
    for phase in order:
        if phase in seconds:
            yield phase, float(seconds[phase])
