"""Rows that differ have different hashes, whatever their types call equal."""

from __future__ import annotations

from tests.servers import DatabaseFactory

from mandate.postgres.connection import Session, Verbatim, connect, sql
from mandate.postgres.embedded import EmbeddedServer
from mandate.rekey import row_hash
from mandate.rekey.fingerprint import fingerprint_hashed

# Types, and what their values are made of, that are hashed in each of the ways there are.
TYPES = {
    "boolean": ("true", "false"),
    "integer": ("0", "-1"),
    "bigint": ("-1", "4294967295"),
    "uuid": (
        "'00000000-0000-0000-0000-000000000000'",
        "'00000000-0000-0000-0000-000000000001'",
    ),
    "text": ("''", "' '"),
    "character varying(5)": ("'a'", "'A'"),
    "bytea": (r"'\x00'", r"'\x0000'"),
    "date": ("'infinity'", "'-infinity'"),
    "timestamp with time zone": ("'2026-11-23 00:00:00Z'", "'2026-11-23 00:00:00.000001Z'"),
    "numeric": ("1.0", "1.00"),
    "double precision": ("0", "'-0'"),
    "interval": ("'1 day'", "'24 hours'"),
    "jsonb": ("'{\"a\": 1.0}'", "'{\"a\": 1.00}'"),
    "json": ("'{\"a\":1}'", "'{\"a\": 1}'"),
    "text[]": ("'{a}'", "'[0:0]={a}'"),
    "integer[]": ("'{1,NULL}'", "'{1}'"),
    "point": ("'(0,0)'", "'(0,-0)'"),
    "xid": ("'1'", "'2'"),
    "tsrange": ("'empty'", "'(,)'"),
    "public.mood": ("'glad'", "'sad'"),
    "public.temper": ("'glad'", "'sad'"),
    "public.slug": ("'a'", "'b'"),
    "public.amount": ("1.0", "1.00"),
    "public.pair": ("'(1,)'", "'(,1)'"),
    "aclitem": ("'postgres=r/postgres'", "'postgres=w/postgres'"),
}
MAKE = b"""
CREATE SCHEMA stored;
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN slug AS text;
CREATE DOMAIN temper AS mood;
CREATE DOMAIN amount AS numeric;
CREATE TYPE pair AS (a integer, b numeric);
"""

CHANGED = (
    "('y', 'x', 1, '1'::jsonb), ('z', 'w', 2, '2')",
    "('z', 'y', 1, '1'::jsonb), ('x', 'w', 2, '2')",
    "('x', 'y', 2, '1'::jsonb), ('z', 'w', 1, '2')",
    "('x', 'y', 1, '2'::jsonb), ('z', 'w', 2, '1')",
    "('x', 'y', 1, '1'::jsonb), ('x', 'y', 1, '1')",
    "('x', 'y', 1, '1'::jsonb)",
)


def test_values_that_differ_in_a_byte_have_different_hashes(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    with connect(database("empty", server=any_postgres)) as session:
        session.execute(MAKE)
        row_hash.make(session, "stored")
        for type_, (one, other) in TYPES.items():
            for stored in (None, "stored"):
                hashes = [
                    _hash(session, {"v": type_}, f"SELECT {value}::{type_} AS v", stored)
                    for value in (one, other, "NULL")
                ]
                assert len(set(hashes)) == 3, (type_, stored)


def test_all_64_bits_of_a_hash_count(database: DatabaseFactory) -> None:
    """With 32 of them some ten in so many rows have the hash of another."""
    with connect(database("empty")) as session:
        hashed = row_hash.expression(session, {"n": "integer", "b": "bigint"})
        query = sql.SQL(
            "SELECT count(DISTINCT {}) FROM (SELECT n, n::bigint << 32 AS b"
            " FROM generate_series(1, 300000) AS n) AS source"
        ).format(hashed)
        assert session.value(query) == 300_000


def test_values_that_change_places_show(database: DatabaseFactory) -> None:
    """Between two columns, and between two rows: nothing of a row's hash may add up over the rows."""
    columns = {"a": "text", "b": "text", "n": "integer", "j": "jsonb"}
    rows = "SELECT * FROM (VALUES {}) AS v (a, b, n, j)"
    before = rows.format("('x', 'y', 1, '1'::jsonb), ('z', 'w', 2, '2')")
    with connect(database("empty")) as session:
        there = _hash(session, columns, before)
        for after in CHANGED:
            assert _hash(session, columns, rows.format(after)) != there, after


def test_who_is_no_superuser_does_without_the_functions(database: DatabaseFactory) -> None:
    with connect(database("empty")) as session, session.transaction():
        session.execute("CREATE SCHEMA stored; GRANT ALL ON SCHEMA stored TO pg_monitor; SET ROLE pg_monitor")
        row_hash.make(session, "stored")
        plain = _hash(session, {"v": "jsonb"}, "SELECT '1'::jsonb AS v")
        assert _hash(session, {"v": "jsonb"}, "SELECT '1'::jsonb AS v", "stored") == plain


def test_a_row_without_columns_is_a_row(database: DatabaseFactory) -> None:
    with connect(database("empty")) as session:
        assert _hash(session, {}, "SELECT FROM generate_series(1, 3)").startswith("3:")


def _hash(session: Session, columns: dict[str, str], query: str, stored: str | None = None) -> str:
    return str(fingerprint_hashed(session, Verbatim(query), row_hash.expression(session, columns, stored)))
