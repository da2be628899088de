"""COPY in both directions and INSERT of many rows, for callers that may not import the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg import sql

from mandate.postgres.connection import Params, Session, translated


def statement(
    table: str, columns: Sequence[str], *, schema: str = "mandate", freeze: bool = False
) -> sql.Composed:
    """The COPY statement for text format. `freeze` needs a table whose file is new in this transaction."""
    return sql.SQL("COPY {}.{} ({}) FROM STDIN{}").format(
        sql.Identifier(schema),
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(" WITH (FREEZE)" if freeze else ""),
    )


def copy_text(session: Session, copy: sql.Composed, data: bytes) -> int:
    """Send lines in COPY's text format; the number of rows. Raises DatabaseError."""
    with translated(), session.connection.cursor() as cursor:
        with cursor.copy(copy) as sink:
            sink.write(data)
        return cursor.rowcount


@contextmanager
def copied_lines(session: Session, query: bytes, params: Params = None) -> Iterator[Iterator[str]]:
    """The rows of a query as lines of COPY's text format, newline included, as they arrive.

    Several times as fast as fetching values. client_encoding must be UTF8. Raises DatabaseError.
    """
    copy = b"COPY (" + query + b") TO STDOUT"
    with translated(), session.connection.cursor() as cursor, cursor.copy(copy, params) as source:
        yield (str(data, "utf-8", "replace") for data in source)


_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def unescaped(field: str) -> str | None:
    """The value of a field of COPY's text format; None for NULL."""
    if "\\" not in field:
        return field
    return None if field == "\\N" else _ESCAPED.sub(lambda found: _LETTERS.get(found[1], found[1]), field)


def insert(
    session: Session, table: str, rows: Sequence[Mapping[str, Any]], *, schema: str = "mandate"
) -> None:
    """Insert rows that all have the columns of the first. Raises DatabaseError."""
    names = list(rows[0])
    query = sql.SQL("INSERT INTO {}.{} ({}) VALUES ({})").format(
        sql.Identifier(schema),
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(map(sql.Placeholder, names)),
    )
    with translated(), session.connection.cursor() as cursor:
        cursor.executemany(query, rows)
