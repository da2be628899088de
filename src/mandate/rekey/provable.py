"""Rows that the new tables could not hold, or that could not come back, found before anything is copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mandate.errors import CheckFailed, DatabaseError
from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey import catalogue, expressions, foreign_keys, rewriting, shadow, transform
from mandate.rekey.direction import text_array
from mandate.rekey.model import Change, Graph, NewTable
from mandate.rekey.spec import Check, ForeignKey

_SHOWN = 20


@contextmanager
def computed(graph: Graph, change: Change, what: str) -> Iterator[None]:
    """Turn an error of a value (SQLSTATE class 22) into one that names the key. Raises CheckFailed."""
    try:
        yield
    except DatabaseError as error:
        if not (error.sqlstate or "").startswith("22"):
            raise
        raise CheckFailed(
            f"key[{change.number - 1}]: {what} of {graph.owner(change)} cannot be computed for some row:"
            f" {error.message}",
            hint="correct the expression, or the row; `mandate rekey abort`, then run again",
        ) from error


def not_back(session: Session, graph: Graph, change: Change, current: sql.Composed) -> Iterator[str]:
    """Keys that the inverse does not make again from the new ones; `current`: SELECT of o1, n1."""
    if not change.inline or _is_widened(change):
        return
    column = change.key.new[0]
    new = sql.SQL("x.{}").format(sql.Identifier(column.name))
    query = sql.SQL(
        "SELECT c.o1::text AS old, c.n1::text AS new FROM ({}) AS c"
        " CROSS JOIN LATERAL (SELECT c.n1 AS {}) AS x"
        " WHERE c.o1 IS NOT NULL AND {}::{} IS DISTINCT FROM c.o1 LIMIT {}"
    ).format(
        current,
        sql.Identifier(column.name),
        transform.expression(column.inverse) if column.inverse else new,
        Verbatim(change.old_types[0]),
        sql.Literal(_SHOWN),
    )
    with computed(graph, change, "the way back (inverse)"):
        for row in session.rows(query):
            yield f"{graph.owner(change)}: inverse does not make {row['old']} of {row['new']} again"


def _is_widened(change: Change) -> bool:
    text = change.key.new[0].expression or ""
    numbers = {change.old_types[0], change.new_types[0]} <= shadow.INTEGERS
    return numbers and rewriting.is_cast(text, change.key.columns[0])


def unmet_checks(session: Session, graph: Graph) -> Iterator[str]:
    """Rows that do not meet a check that the spec wants."""
    for check in graph.spec.check:
        table = next(table for table in graph.tables if str(table) == check.table)
        expressions.require_one(check.expression, f"check {check.name}")
        for row in session.rows(_unmet(graph, table, check)):
            named = ", ".join(f"{name} {value}" for name, value in zip(table.key, row["key"], strict=True))
            yield f"{table} ({named}): check {check.name} is not met"


def _unmet(graph: Graph, table: NewTable, check: Check) -> sql.Composed:
    alias = sql.Identifier(table.old.name)
    return sql.SQL("SELECT {} AS key FROM ({}) AS {} WHERE NOT ({}) LIMIT {}").format(
        text_array(alias, table.key),
        transform.new_rows(graph, table),
        alias,
        Verbatim(check.expression),
        sql.Literal(_SHOWN),
    )


def unmet_foreign_keys(session: Session, graph: Graph) -> Iterator[str]:
    """Rows without a parent by a foreign key of the spec to a table of nobody's change.

    It is proven after the swap, which is too late to hear of them. Those between tables of the change are
    proven before it.
    """
    kept = catalogue.read(session, graph)
    proven = [key for key in foreign_keys.renewed(graph, kept) if _was_valid(kept, key)]
    inside = {str(table): table for table in graph.tables}
    for key in graph.spec.foreign_key:
        if key.references in inside or any(foreign_keys.is_wanted(each, key) for each in proven):
            continue
        table = inside[key.table]
        for row in session.rows(_without_parent(graph, table, key)):
            named = ", ".join(f"{name} {value}" for name, value in zip(table.key, row["key"], strict=True))
            yield f"{table} ({named}): foreign key {key.name} is not met, {key.references} has no such row"


def _was_valid(kept: catalogue.Catalogue, key: catalogue.ForeignKey) -> bool:
    return any(each.oid == key.oid and each.valid and each.enforced for each in kept.foreign_keys)


def _without_parent(graph: Graph, table: NewTable, key: ForeignKey) -> sql.Composed:
    alias = sql.Identifier(table.old.name)
    same = sql.SQL(" AND ").join(
        sql.SQL("p.{} = {}.{}").format(sql.Identifier(theirs), alias, sql.Identifier(ours))
        for ours, theirs in zip(key.columns, key.referred, strict=True)
    )
    set_ = sql.SQL(" AND ").join(
        sql.SQL("{}.{} IS NOT NULL").format(alias, sql.Identifier(name)) for name in key.columns
    )
    return sql.SQL(
        "SELECT {} AS key FROM ({}) AS {} WHERE {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {}) LIMIT {}"
    ).format(
        text_array(alias, table.key),
        transform.new_rows(graph, table),
        alias,
        set_,
        sql.Identifier(*key.references.split(".")),
        same,
        sql.Literal(_SHOWN),
    )
