"""A 64-bit hash of a whole row, as cheap as the types of its columns allow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mandate.postgres.connection import Session, Verbatim, sql

_HASHABLE = (Path(__file__).parent / "sql" / "hashable.sql").read_bytes()


def expression(session: Session, columns: Mapping[str, str]) -> sql.Composed:
    """The hash of a row called `source` with these columns (name -> type), for one database only.

    Rows that differ in a byte have different hashes, short of a collision, also where the types call them
    equal: 1.0 and 1.00 as numeric, or texts that a collation does not tell apart.
    """
    found = session.rows(_HASHABLE, (list(columns.values()),))
    whole: list[sql.Composable] = []
    sent: list[sql.Composable] = []
    shown: list[sql.Composable] = []
    for name, how in zip(columns, found, strict=True):
        value = sql.SQL("source.{}").format(sql.Identifier(name))
        if how["exactly"]:
            whole.append(sql.SQL('{} COLLATE "C"').format(value) if how["text"] else value)
        elif how["send"] is not None:
            whole.append(sql.SQL("{}({})").format(Verbatim(how["send"]), value))
        else:
            (sent if how["sendable"] else shown).append(value)
    if sent:
        whole.append(sql.SQL("pg_catalog.record_send({}::pg_catalog.record)").format(_row(sent)))
    if shown:
        whole.append(sql.SQL('{}::text COLLATE "C"').format(_row(shown)))
    # Hashed once more: it is a sum over the columns, and the sum of those would not tell which row had what.
    return sql.SQL("pg_catalog.hashint8extended(pg_catalog.hash_record_extended({}, 0), 0)").format(
        _row(whole)
    )


def _row(values: list[sql.Composable]) -> sql.Composed:
    return sql.SQL("ROW({})").format(sql.SQL(", ").join(values))
