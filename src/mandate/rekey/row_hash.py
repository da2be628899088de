"""A 64-bit hash of a whole row, as cheap as the types of its columns allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mandate.postgres.connection import Session, Verbatim, sql

# PostgreSQL 18 and later.
_HASHES_BYTES = "SELECT to_regprocedure('pg_catalog.hashbyteaextended(bytea,bigint)') IS NOT NULL"
# Types that are sent as something else than what is stored, which is cheaper to hash.
_STORED = ("jsonb", "json", "numeric")
_FUNCTION = "stored_hash"
# PostgreSQL's own hashes of a bigint know 32 bits of it: -1 and 4294967295 are one to them.
_FOLDS = "hashint8extended"
_HASHABLE = (Path(__file__).parent / "sql" / "hashable.sql").read_bytes()


def make(session: Session, schema: str) -> None:
    """Put functions that hash values as they are stored into a schema, if the role may. Safe to repeat.

    PostgreSQL's own, under a name that SQL can call; each for one type, for others would be misread.
    """
    if session.value("SELECT current_setting('is_superuser')") != "on":
        return
    for type_ in _STORED:
        session.execute(
            sql.SQL(
                "CREATE OR REPLACE FUNCTION {}(pg_catalog.{}, bigint) RETURNS bigint"
                " LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'hashvarlenaextended'"
            ).format(sql.Identifier(schema, _FUNCTION), sql.Identifier(type_))
        )


def expression(session: Session, columns: Mapping[str, str], stored: str | None = None) -> sql.Composed:
    """The hash of a row called `source` with these columns (name -> type), for one database only.

    Rows that differ in a byte have different hashes, short of a collision, also where the types call them
    equal: 1.0 and 1.00 as numeric, or texts that a collation does not tell apart. (Of a timestamp, or a time
    of day, PostgreSQL hashes 32 bits.) With `stored`, a schema that `make` was called for, rows that are the
    same may have different hashes, too, if a value of them was put together in another way: then look again
    without.
    """
    made = _made(session, stored)
    found = session.rows(_HASHABLE, (list(columns.values()),))
    by_bytes = session.value(_HASHES_BYTES)
    parts = _Parts()
    for seed, (name, how) in enumerate(zip(columns, found, strict=True), start=1):
        value: sql.Composable = sql.SQL("source.{}").format(sql.Identifier(name))
        if how["exactly"]:
            value = sql.SQL('{} COLLATE "C"').format(value) if how["text"] else value
            parts.add(value, how["function"] and _own(how["function"]), seed)
        elif how["type"] in made:
            parts.add(value, sql.Identifier(stored or "", _FUNCTION), seed)
        elif how["send"] is not None:
            sent = sql.SQL("{}({})").format(Verbatim(how["send"]), value)
            parts.add(sent, _own("hashbyteaextended") if by_bytes else None, seed)
        else:
            (parts.sent if how["sendable"] else parts.shown).append(value)
    # Hashed once more: what columns add up to would, summed over the rows, not tell which row had what.
    return _of_all_bits(parts.together(), 0)


def _of_all_bits(value: sql.Composable, seed: int) -> sql.Composed:
    """The hash of a bigint: the value as the seed, of which every bit counts, and the seed as the value."""
    return sql.SQL("pg_catalog.hashint4extended({}, {})").format(sql.Literal(seed), value)


def _made(session: Session, schema: str | None) -> set[str]:
    """The types that `make` has made functions for."""
    rows = session.rows(
        "SELECT p.proargtypes[0]::regtype::text AS type FROM pg_catalog.pg_proc AS p"
        " JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname = %s AND p.proname = %s",
        (schema, _FUNCTION),
    )
    return {row["type"] for row in rows}


def _own(function: str) -> sql.Identifier:
    return sql.Identifier("pg_catalog", function)


@dataclass
class _Parts:
    """What a row's hash is put together from: hashes of values, and values to be hashed as a row."""

    hashes: list[sql.Composable] = field(default_factory=list)
    whole: list[sql.Composable] = field(default_factory=list)
    sent: list[sql.Composable] = field(default_factory=list)
    shown: list[sql.Composable] = field(default_factory=list)

    def add(self, value: sql.Composable, function: sql.Identifier | None, seed: int) -> None:
        """Another seed for each column, so that values that change places show. NULL is no value's hash."""
        if function is None:
            self.whole.append(value)
            return
        hashed = (
            _of_all_bits(value, seed)
            if function == _own(_FOLDS)
            else sql.SQL("{}({}, {})").format(function, value, sql.Literal(seed))
        )
        self.hashes.append(sql.SQL("coalesce({}, {})").format(hashed, sql.Literal(seed)))

    def together(self) -> sql.Composed:
        """One number."""
        whole = list(self.whole)
        if self.sent:
            whole.append(sql.SQL("pg_catalog.record_send({}::pg_catalog.record)").format(_row(self.sent)))
        if self.shown:
            whole.append(sql.SQL('{}::text COLLATE "C"').format(_row(self.shown)))
        hashes = list(self.hashes)
        if whole or not hashes:
            hashes.append(sql.SQL("pg_catalog.hash_record_extended({}, 0)").format(_row(whole)))
        return sql.SQL(" OPERATOR(pg_catalog.#) ").join(hashes)


def _row(values: list[sql.Composable]) -> sql.Composed:
    return sql.SQL("ROW({})").format(sql.SQL(", ").join(values))
