"""What a spec says, asked of the database before anything is done: types, expressions, keys, names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mandate.errors import DatabaseError, UsageError
from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey import transform
from mandate.rekey.model import Change, Graph, Group, NewTable
from mandate.rekey.spec import Reference

Composable = sql.Composable

_IS_KEY = (Path(__file__).parent / "sql" / "discover_is_key.sql").read_bytes()
# Of SQLSTATE: what is wrong with the words themselves, or with a constant in them.
_WORDING = ("42", "22", "0A")


def require(session: Session, graph: Graph) -> None:
    """Raise UsageError naming the first entry of the spec that cannot be meant."""
    for change in graph.changes:
        _require_key(session, graph, change)
    for table in graph.tables:
        for group in table.groups:
            _require_free_names(table, group)
    for number, reference in enumerate(graph.spec.reference):
        _require_reference(session, graph, reference, f"reference[{number}]")
    for number, check in enumerate(graph.spec.check):
        held = next(each for each in graph.tables if str(each) == check.table)
        text = transform.expression(check.expression)
        _probe(session, _row(held, old=False), text, "boolean", f"check[{number}].expression")


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
    before, after = _row(parent, old=True), _row(parent, old=False)
    for place, column in enumerate(key.new):
        at = f"{where}.new[{place}]"
        if column.type is not None:
            _probe(session, before, sql.SQL("NULL"), column.type, f"{at}.type")
        if column.expression is not None and column.type is not None:
            text = transform.expression(column.expression)
            _probe(session, before, text, column.type, f"{at}.expression")
    if change.inline or key.new[0].inverse:
        alone = _relation(parent, [(key.new[0].name, change.new_types[0])])
        text = transform.expression(key.new[0].inverse or _quoted(key.new[0].name))
        given = ".inverse" if key.new[0].inverse else ": without inverse a new key is cast to the old type"
        _probe(
            session, alone if change.inline else after, text, change.old_types[0], f"{where}.new[0]{given}"
        )
    if key.old_default is not None:
        made = transform.expression(key.old_default)
        _probe(session, after, made, change.old_types[0], f"{where}.old_default")
    for name, expression in key.drop.items():
        type_ = parent.old.column(name).type
        _probe(session, after, transform.expression(expression), type_, f"{where}.drop.{name}")


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def _row(table: NewTable, *, old: bool) -> sql.Composed:
    """A relation of the table's name that has its columns and no rows."""
    columns = [(column.name, column.type) for column in (table.old.columns if old else table.columns)]
    return _relation(table, columns)


def _relation(table: NewTable, columns: Iterable[tuple[str, str]]) -> sql.Composed:
    values = [
        sql.SQL("NULL::{} AS {}").format(Verbatim(type_), sql.Identifier(name)) for name, type_ in columns
    ]
    return sql.SQL("(SELECT {} LIMIT 0) AS {}").format(
        sql.SQL(", ").join(values), sql.Identifier(table.old.name)
    )


def _probe(session: Session, source: Composable, value: Composable, type_: str, where: str) -> None:
    """In a WHERE, where neither aggregates nor sets may stand."""
    query = sql.SQL("SELECT FROM {} WHERE ({})::{} IS NULL").format(source, value, Verbatim(type_))
    _ask(session, query, where)


def _ask(session: Session, query: sql.Composed, where: str) -> None:
    try:
        with session.transaction():
            session.rows(query)
    except DatabaseError as error:
        if not (error.sqlstate or "").startswith(_WORDING):
            raise
        hint = (
            error.hint or "names of functions, tables and types need their schema: the search path is empty"
        )
        raise UsageError(f"{where}: {error.message}", hint=hint) from None


def _require_free_names(table: NewTable, group: Group) -> None:
    """A new column must not take the name of one that stays; but a child's, which a map is compared with."""
    if not group.owner and not group.change.inline:
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
        query = sql.SQL("SELECT WHERE NULL::{} = NULL::{}").format(
            Verbatim(table.old.column(name).type), Verbatim(type_)
        )
        _ask(session, query, f"{where}: {table}.{name}")
