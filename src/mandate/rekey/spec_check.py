"""What a spec says, asked of the database before anything is done: types, expressions, keys, names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mandate.errors import UsageError
from mandate.postgres.connection import Session, sql
from mandate.rekey import probing, spec_parts, transform
from mandate.rekey.model import Change, Graph, Group, NewTable
from mandate.rekey.spec import Reference
from mandate.rekey.spec import Table as TableSpec

Composable = sql.Composable

_IS_KEY = (Path(__file__).parent / "sql" / "discover_is_key.sql").read_bytes()


def require(session: Session, graph: Graph) -> None:
    """Raise UsageError naming the first entry of the spec that cannot be meant."""
    for change in graph.changes:
        _require_key(session, graph, change)
    for table in graph.tables:
        for group in table.groups:
            _require_free_names(table, group)
    for number, given in enumerate(graph.spec.table):
        _require_columns(session, graph, given, f"table[{number}]")
    for number, reference in enumerate(graph.spec.reference):
        _require_reference(session, graph, reference, f"reference[{number}]")
    for number, check in enumerate(graph.spec.check):
        held = next(each for each in graph.tables if str(each) == check.table)
        text = transform.expression(check.expression)
        probing.value(session, probing.row(held, old=False), text, "boolean", f"check[{number}].expression")
    spec_parts.require(session, graph)


def _require_columns(session: Session, graph: Graph, given: TableSpec, where: str) -> None:
    table = next(each for each in graph.tables if str(each) == given.name)
    for place, column in enumerate(given.column):
        at = f"{where}.column[{place}]"
        before = probing.row(table, old=True)
        probing.value(session, before, sql.SQL("NULL"), column.type, f"{at}.type")
        probing.value(
            session, before, transform.expression(column.expression), column.type, f"{at}.expression"
        )
        if column.default is not None:
            alone = probing.relation(table, ())
            probing.value(session, alone, transform.expression(column.default), column.type, f"{at}.default")


def _require_reference(session: Session, graph: Graph, reference: Reference, where: str) -> None:
    table = next((each for each in graph.tables if str(each) == reference.table), None)
    group = None if table is None else table.group_of(reference.columns[0])
    if table is None or group is None or list(group.old) != reference.columns:
        columns = ", ".join(reference.columns)
        raise UsageError(
            f"{where}: no foreign key of {reference.table} on {columns} refers to a key that changes",
            hint="give key = 'schema.table' when they refer to one although no foreign key says so",
        )
    if reference.key is not None:
        _require_comparable(session, table, group, where)


def _require_key(session: Session, graph: Graph, change: Change) -> None:
    key, where = change.key, f"key[{change.number - 1}]"
    parent = graph.owner(change)
    names = sorted(key.columns)
    if not session.value(_IS_KEY, {"table": parent.old.oid, "names": names}):
        raise UsageError(
            f"{where}.columns: {', '.join(key.columns)} is not a primary or unique key of {parent}",
            hint="name the columns of its primary key, or of a unique constraint",
        )
    before, after = probing.row(parent, old=True), probing.row(parent, old=False)
    for place, column in enumerate(key.new):
        at = f"{where}.new[{place}]"
        if column.type is not None:
            probing.value(session, before, sql.SQL("NULL"), column.type, f"{at}.type")
        if column.expression is not None and column.type is not None:
            text = transform.expression(column.expression)
            probing.value(session, before, text, column.type, f"{at}.expression")
    if change.inline or key.new[0].inverse:
        alone = probing.relation(parent, [(key.new[0].name, change.new_types[0])])
        text = transform.expression(key.new[0].inverse or _quoted(key.new[0].name))
        given = ".inverse" if key.new[0].inverse else ": without inverse a new key is cast to the old type"
        probing.value(
            session, alone if change.inline else after, text, change.old_types[0], f"{where}.new[0]{given}"
        )
    if key.old_default is not None:
        made = transform.expression(key.old_default)
        probing.value(session, after, made, change.old_types[0], f"{where}.old_default")
    for name, expression in key.drop.items():
        type_ = parent.old.column(name).type
        probing.value(session, after, transform.expression(expression), type_, f"{where}.drop.{name}")


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def _require_free_names(table: NewTable, group: Group) -> None:
    """A new column must not take the name of one that stays, unless its rows are compared with a map."""
    if not group.change.inline:
        return
    key = group.change.key
    mine = {*group.old, *key.drop} if group.owner else set(group.old)
    for name in _made(group):
        if table.old.has(name) and name not in mine:
            where = (
                f"key[{group.change.number - 1}]" if group.owner else f"reference of {table} to {key.table}"
            )
            raise UsageError(
                f"{where}: {table} has a column {name} already",
                hint="give the new column another name, or let the parent's go with drop",
            )


def _made(group: Group) -> Iterator[str]:
    return (name for name, kept in zip(group.new, group.kept, strict=True) if not kept)


def _require_comparable(session: Session, table: NewTable, group: Group, where: str) -> None:
    for name, type_ in zip(group.old, group.change.old_types, strict=True):
        probing.comparable(session, table.old.column(name).type, type_, f"{where}: {table}.{name}")
