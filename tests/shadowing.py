"""A key change without writers: shadows, rows, indexes, foreign keys and the swap, and back again."""

from __future__ import annotations

import re
from itertools import chain

from psycopg import sql
from tests.sqlfiles import psql

from mandate.postgres import programs
from mandate.postgres.connection import Session, Target, connect
from mandate.rekey import build, crew, objects, shadow, spec, transform
from mandate.rekey.direction import FORWARD, Direction
from mandate.rekey.discover import discover
from mandate.rekey.model import Graph


def session_of(target: Target) -> Session:
    """A session as the engine opens it."""
    return connect(target, settings={"row_security": "off", "search_path": ""})


def run_script(target: Target, script: str) -> None:
    """SQL that has to succeed."""
    done = psql(target, f"\\set ON_ERROR_STOP on\n\\set QUIET on\n{script}")
    assert done.returncode == 0, done.stderr


def graph_of(session: Session, text: str) -> Graph:
    return discover(session, spec.parse(text))


def build_all(session: Session, graph: Graph) -> None:
    """Everything up to the swap; a map is filled by the plainest query."""
    shadow.create(session, graph)
    fill(session, graph)
    crew.run([session], build.tasks(session, graph))
    build.foreign_keys([session], graph)


def fill(session: Session, graph: Graph) -> None:
    """The maps and the rows."""
    for change in graph.changes:
        if not change.inline:
            fill_map(session, graph, change.number)
    for table in graph.tables:
        columns = [sql.Identifier(name) for name in FORWARD.destination_types(table)]
        session.execute(
            sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE {}").format(
                FORWARD.destination(graph, table),
                sql.SQL(", ").join(columns),
                sql.SQL("SELECT {} FROM ({}) AS r").format(
                    sql.SQL(", ").join(columns), transform.new_rows(graph, table)
                ),
            )
        )


def fill_map(session: Session, graph: Graph, number: int) -> None:
    change = graph.changes[number - 1]
    owner = graph.owner(change)
    old = [
        sql.SQL("{} AS {}").format(sql.Identifier(c), sql.Identifier(f"o{i}"))
        for i, c in enumerate(change.key.columns, 1)
    ]
    new = [
        sql.SQL("{} AS {}").format(
            sql.SQL("({})").format(sql.SQL(c.expression)) if c.expression else sql.Identifier(c.name),
            sql.Identifier(f"n{i}"),
        )
        for i, c in enumerate(change.key.new, 1)
    ]
    dropped = [
        sql.SQL("{} AS {}").format(sql.Identifier(c), sql.Identifier(f"d{i}"))
        for i, c in enumerate(change.key.drop, 1)
    ]
    session.execute(
        sql.SQL("CREATE TABLE IF NOT EXISTS {} AS SELECT {} FROM {} AS {}").format(
            sql.Identifier(graph.spec.work_schema, change.map_name),
            sql.SQL(", ").join([*old, *new, *dropped]),
            owner.old.identifier,
            sql.Identifier(owner.old.name),
        )
    )


def swap(session: Session, graph: Graph, direction: Direction = FORWARD) -> None:
    """What the cutover does, without its deadline."""
    with session.transaction():
        for statement in objects.to_lock(session, graph):
            session.execute(statement)
        move(session, graph, direction)
    for statement in chain(*objects.proofs_after(session, graph, direction)):
        session.execute(statement)
    for statement in objects.refreshed_after(session, graph):
        session.execute(statement)


def move(session: Session, graph: Graph, direction: Direction) -> None:
    """The part of it that is under the locks."""
    places = (graph.spec.retained_schema, graph.spec.shadow_schema)
    aside, back = places if direction is FORWARD else reversed(places)
    session.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(aside)))
    for table in graph.tables:
        for schema, to in ((table.old.schema, aside), (back, table.old.schema)):
            session.execute(
                sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
                    sql.Identifier(schema, table.old.name), sql.Identifier(to)
                )
            )
    for statement in objects.at_cutover(session, graph, direction):
        session.execute(statement)


def drop_schemas(session: Session, graph: Graph) -> None:
    spec_ = graph.spec
    for name in (spec_.shadow_schema, spec_.retained_schema, spec_.work_schema):
        session.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def schema_dump(target: Target) -> list[str]:
    """The statements of pg_dump, without what differs between dumps of equal databases, sorted.

    The engine's own schemas are left out.
    """
    named = ["--exclude-schema=mandate_*"]
    text = programs.run([programs.find("pg_dump", 18), "--schema-only", *named], target)
    kept = [
        line for line in text.splitlines() if not re.match(r"--|\\(un)?restrict|SET |SELECT pg_catalog", line)
    ]
    return sorted(part.strip() for part in re.split(r"\n{2,}", "\n".join(kept)) if part.strip())
