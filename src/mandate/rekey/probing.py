"""What a spec says, tried on the database: statements that PostgreSQL plans and that read no row."""

from __future__ import annotations

from collections.abc import Iterable

from mandate.errors import DatabaseError, UsageError
from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey.model import NewTable

Composable = sql.Composable

# Of SQLSTATE: what is wrong with the words themselves, or with a constant in them.
_WORDING = ("42", "22", "0A")


def row(table: NewTable, *, old: bool) -> sql.Composed:
    """A relation of the table's name that has its columns and no rows."""
    columns = [(column.name, column.type) for column in (table.old.columns if old else table.columns)]
    return relation(table, columns)


def relation(table: NewTable, columns: Iterable[tuple[str, str]]) -> sql.Composed:
    """A relation of the table's name with columns (name, type) and no rows."""
    values = [
        sql.SQL("NULL::{} AS {}").format(Verbatim(type_), sql.Identifier(name)) for name, type_ in columns
    ]
    return sql.SQL("(SELECT {} LIMIT 0) AS {}").format(
        sql.SQL(", ").join(values), sql.Identifier(table.old.name)
    )


def value(session: Session, source: Composable, text: Composable, type_: str, where: str) -> None:
    """Raise UsageError, beginning with `where`, unless `text` over `source` has the type.

    It is tried in a WHERE, where neither aggregates nor sets may stand.
    """
    query = sql.SQL("SELECT FROM {} WHERE ({})::{} IS NULL").format(source, text, Verbatim(type_))
    ask(session, query, where)


def comparable(session: Session, one: str, other: str, where: str) -> None:
    """Raise UsageError unless values of the two types can be compared."""
    query = sql.SQL("SELECT WHERE NULL::{} = NULL::{}").format(Verbatim(one), Verbatim(other))
    ask(session, query, where)


def ask(session: Session, query: sql.Composed, where: str) -> list[str]:
    """Run a query that returns nothing; names of its columns. Raises UsageError, beginning with `where`."""
    try:
        with session.transaction():
            return session.fetch(query)[0]
    except DatabaseError as error:
        if not (error.sqlstate or "").startswith(_WORDING):
            raise
        hint = (
            error.hint or "names of functions, tables and types need their schema: the search path is empty"
        )
        raise UsageError(f"{where}: {error.message}", hint=hint) from None
