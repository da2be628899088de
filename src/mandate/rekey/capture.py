"""Triggers that write down the key of every row that a client writes, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mandate.postgres.connection import Row, Session, sql
from mandate.progress import Reporter, Silent
from mandate.rekey import locking
from mandate.rekey.direction import BACK, PLAIN_TEXT, Direction, text_array
from mandate.rekey.model import Graph, NewTable

_OLDER = (Path(__file__).parent / "sql" / "older_transactions.sql").read_bytes()
_POLL_SECONDS = 0.1
_SAY_AFTER_SECONDS = 2.0

# Types whose text is the same under every setting; a key of another pins the settings, which takes time.
_STEADY = frozenset({"smallint", "integer", "bigint", "numeric", "uuid", "text", "boolean"})


def install(
    session: Session,
    graph: Graph,
    direction: Direction,
    reporter: Reporter | None = None,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Put the triggers on all sources in one transaction; what is there already stays. Safe to repeat.

    Tries for a moment at a time, with growing pauses in which it calls `between`, and says who is in the
    way. Also writes the functions
    of the way back, so that the cutover has only triggers to create.
    """
    for each in {direction, BACK}:
        _create_functions(session, graph, each)
    if not _incomplete(session, graph, direction):
        return
    locking.insist(
        session,
        [direction.source(table) for table in graph.tables],
        sql.SQL("SHARE ROW EXCLUSIVE"),
        lambda: install_now(session, graph, direction),
        reporter or Silent(),
        between,
    )


def install_now(session: Session, graph: Graph, direction: Direction) -> None:
    """The same at once, inside the caller's transaction."""
    statements = [_create_triggers(graph, direction, each) for each in _incomplete(session, graph, direction)]
    if statements:
        session.execute(sql.SQL(";\n").join(statements))


def prepare(session: Session, graph: Graph, direction: Direction) -> None:
    """Make the functions that `triggers` need, where one is missing."""
    if not _has_functions(session, graph, direction):
        _create_functions(session, graph, direction)


def triggers(graph: Graph, direction: Direction) -> Iterator[sql.Composed]:
    """Statements that put the triggers on all sources; their functions must be there."""
    for table in graph.tables:
        yield _create_triggers(graph, direction, table)


def without_triggers(graph: Graph, direction: Direction) -> Iterator[sql.Composed]:
    """Statements that take the triggers off all sources."""
    for table in graph.tables:
        yield _drop_triggers(graph, direction, table)


def remove(session: Session, graph: Graph, direction: Direction, reporter: Reporter | None = None) -> None:
    """Take the triggers off: in a transaction at once, else trying as `install` does. Safe to repeat."""
    there = _triggers(session, graph, direction, ("A", "D", "O", "R"))
    tables = [table for table in graph.tables if there.get(table.old.oid)]
    if not tables:
        return
    drop = sql.SQL(";\n").join(_drop_triggers(graph, direction, table) for table in tables)
    if session.in_transaction:
        session.execute(drop)
        return

    def work() -> None:
        session.execute(drop)

    sources = [direction.source(table) for table in tables]
    locking.insist(session, sources, sql.SQL("ACCESS EXCLUSIVE"), work, reporter or Silent())


def wait_for_older(
    session: Session, reporter: Reporter | None = None, between: Callable[[], None] = lambda: None
) -> None:
    """Return when every transaction that has written something by now has ended; says who it waits for."""
    limit = session.value("SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text")
    said: list[str] = []
    started = time.monotonic()
    while older := session.rows(_OLDER, {"xmax": limit}):
        names = [_in_words(row) for row in older]
        if names != said and time.monotonic() - started > _SAY_AFTER_SECONDS:
            (reporter or Silent()).line(f"waiting for transactions to end: {'; '.join(names)}")
            said = names
        between()
        time.sleep(_POLL_SECONDS)


def _in_words(row: Row) -> str:
    if row["gid"] is not None:
        return f"prepared transaction {row['gid']} of {row['user']} (COMMIT or ROLLBACK PREPARED it)"
    return f"pid {row['pid']} ({row['user']}, {row['application'] or 'no application name'})"


# -- what is there ---------------------------------------------------------------------------------------


def _names(graph: Graph, direction: Direction) -> tuple[str, str]:
    """Of the row trigger and the truncate trigger: the last in the order of names."""
    name = f"zzzz_mandate_{graph.spec.rekey.name}_{direction}"
    return name, f"{name}_truncate"


def _triggers(
    session: Session, graph: Graph, direction: Direction, enabled: Sequence[str] = ("A",)
) -> Mapping[int, int]:
    """Old table's oid -> how many of its source's triggers are there, enabled that way."""
    rows = session.rows(
        "SELECT s.tab, count(*) FROM unnest(%s::bigint[], %s::text[]) AS s (tab, name)"
        " JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = pg_catalog.to_regclass(s.name)"
        ' WHERE t.tgname = ANY (%s::text[]) AND t.tgenabled = ANY (%s::"char"[]) GROUP BY 1',
        (
            [table.old.oid for table in graph.tables],
            [direction.source(table).as_string(session.connection) for table in graph.tables],
            list(_names(graph, direction)),
            list(enabled),
        ),
    )
    return {row["tab"]: row["count"] for row in rows}


def _incomplete(session: Session, graph: Graph, direction: Direction) -> list[NewTable]:
    there = _triggers(session, graph, direction)
    return [table for table in graph.tables if there.get(table.old.oid, 0) < 2]


def _has_functions(session: Session, graph: Graph, direction: Direction) -> bool:
    names = [_function_name(direction, table) for table in graph.tables]
    count: int = session.value(
        "SELECT count(*) FROM pg_catalog.pg_proc AS p"
        " JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname = %s AND p.proname = ANY (%s::text[])",
        (graph.spec.work_schema, names),
    )
    return count == len(names)


# -- statements ------------------------------------------------------------------------------------------


def _function_name(direction: Direction, table: NewTable) -> str:
    return f"capture_{direction}_{table.old.oid}"


def _create_functions(session: Session, graph: Graph, direction: Direction) -> None:
    for table in graph.tables:
        session.execute(_create_function(session, graph, direction, table))


def _create_function(session: Session, graph: Graph, direction: Direction, table: NewTable) -> sql.Composed:
    """As its owner, so that a client without any right on the work schema can write as before."""
    settings = {"search_path": "pg_catalog, pg_temp", **_pinned(direction, table)}
    pins = [
        sql.SQL(" SET {} = {}").format(sql.Identifier(name), sql.SQL("pg_catalog, pg_temp"))
        if name == "search_path"
        else sql.SQL(" SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in settings.items()
    ]
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER{} AS {}"
    ).format(
        _function(graph, direction, table),
        sql.Composed(pins),
        sql.Literal(_body(graph, direction, table).as_string(session.connection)),
    )


def _function(graph: Graph, direction: Direction, table: NewTable) -> sql.Identifier:
    return sql.Identifier(graph.spec.work_schema, _function_name(direction, table))


def _pinned(direction: Direction, table: NewTable) -> Mapping[str, str]:
    types = {direction.source_type(table, name).partition("(")[0] for name in direction.logged(table)}
    return {} if types <= _STEADY else PLAIN_TEXT


def _body(graph: Graph, direction: Direction, table: NewTable) -> sql.Composed:
    columns = direction.logged(table)
    return sql.SQL(
        "BEGIN"
        " IF TG_OP = 'TRUNCATE' THEN INSERT INTO {log} (tab, key) VALUES ({tab}, NULL);"
        " ELSIF TG_OP = 'INSERT' THEN INSERT INTO {log} (tab, key) VALUES ({tab}, {new});"
        " ELSE INSERT INTO {log} (tab, key) VALUES ({tab}, {old});"
        " IF TG_OP = 'UPDATE' AND {new} IS DISTINCT FROM {old} THEN"
        " INSERT INTO {log} (tab, key) VALUES ({tab}, {new});"
        " END IF;"
        " END IF;"
        " RETURN NULL;"
        " END"
    ).format(
        log=direction.log(graph),
        tab=sql.Literal(table.old.oid),
        new=text_array(sql.SQL("NEW"), columns),
        old=text_array(sql.SQL("OLD"), columns),
    )


def _create_triggers(graph: Graph, direction: Direction, table: NewTable) -> sql.Composed:
    """ALWAYS: also for rows that replication writes."""
    row, truncate = map(sql.Identifier, _names(graph, direction))
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {row} AFTER INSERT OR UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION {function}();\n"
        "CREATE OR REPLACE TRIGGER {truncate} AFTER TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION {function}();\n"
        "ALTER TABLE {table} ENABLE ALWAYS TRIGGER {row}, ENABLE ALWAYS TRIGGER {truncate}"
    ).format(
        row=row,
        truncate=truncate,
        table=direction.source(table),
        function=_function(graph, direction, table),
    )


def _drop_triggers(graph: Graph, direction: Direction, table: NewTable) -> sql.Composed:
    row, truncate = map(sql.Identifier, _names(graph, direction))
    return sql.SQL("DROP TRIGGER IF EXISTS {} ON {table};\nDROP TRIGGER IF EXISTS {} ON {table}").format(
        row, truncate, table=direction.source(table)
    )
