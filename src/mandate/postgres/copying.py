"""COPY ... FROM STDIN and INSERT of many rows, for callers that may not import the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from mandate.postgres.connection import Session, translated


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
