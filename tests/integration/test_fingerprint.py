"""Fingerprints: equal for the same rows in any order, different for any other rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers import DatabaseFactory

from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.postgres.embedded import EmbeddedServer
from mandate.rekey import fingerprint as module
from mandate.rekey.fingerprint import Fingerprint, fingerprint, fingerprint_schema

TEXT = st.none() | st.text(alphabet='ab,()"\\ ', max_size=3)
ROW = st.tuples(TEXT, TEXT, st.none() | st.integers(-3, 3))

Cells = tuple[Any, ...]


@pytest.fixture(scope="module")
def session(postgres: EmbeddedServer) -> Iterator[Session]:
    with connect(postgres.target()) as opened:
        yield opened


def of(session: Session, rows: list[Cells]) -> Fingerprint:
    documents = [dict(zip("abc", row, strict=True)) for row in rows]
    return fingerprint(
        session,
        sql.SQL("SELECT * FROM jsonb_to_recordset({}) AS r (a text, b text, c int)").format(
            sql.Literal(json.dumps(documents))
        ),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.lists(ROW, max_size=5), second=st.lists(ROW, max_size=5), data=st.data())
def test_equal_exactly_when_the_rows_are(
    session: Session, first: list[Cells], second: list[Cells], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(first))
    assert of(session, shuffled) == of(session, first)
    assert (of(session, first) == of(session, second)) == (Counter(first) == Counter(second))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=5), data=st.data())
def test_any_one_change_shows(session: Session, rows: list[Cells], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    changed = data.draw(ROW.filter(lambda row: row != rows[place]))
    others = [
        rows[:place] + rows[place + 1 :],
        [*rows, rows[place]],
        [*rows[:place], changed, *rows[place + 1 :]],
    ]
    for other in others:
        assert of(session, other) != of(session, rows)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("x", "y", 1)] * 2, [("p", "q", 2)] * 2),  # every xor is 0
        ([(None, "", 0)], [("", None, 0)]),
        ([("a,b", "c", 0)], [("a", "b,c", 0)]),
        ([('"', "", 0)], [('""', "", 0)]),
    ],
)
def test_known_lookalikes_differ(session: Session, one: list[Cells], other: list[Cells]) -> None:
    assert of(session, one) != of(session, other)


@given(parts=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6), cut=st.integers(0, 6))
def test_fingerprints_add_up_and_read_back(parts: list[int], cut: int) -> None:
    def total(values: list[int]) -> Fingerprint:
        return sum((Fingerprint(1, str(v), str(v)) for v in values), Fingerprint())

    assert total(parts[:cut]) + total(parts[cut:]) == total(parts)
    assert Fingerprint.parse(str(total(parts))) == total(parts)


def test_the_same_data_has_the_same_fingerprint_on_every_version(
    postgres: EmbeddedServer, any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    found = [_of_every_type(database("empty", server=server)) for server in (postgres, any_postgres)]
    assert found[0] == found[1]
    assert found[0]["public.all_types"].rows == 50


def _of_every_type(target: Target) -> dict[str, Fingerprint]:
    with connect(target) as session:
        session.execute(
            "CREATE TABLE all_types AS SELECT i, i / 7.0::float8 AS f, i / 7.0::float4 AS f4, i / 7.0 AS n,"
            " i * interval '1 day 1.5 s' AS v, timestamptz '2026-03-01 12:00+05' + i * interval '1 h' AS t,"
            " decode(md5(i::text), 'hex') AS b, jsonb_build_object('b', i, 'a', NULL) AS j, i % 2 = 0 AS o,"
            " ARRAY[i::text, NULL, ''] AS l, md5(i::text)::uuid AS u, i::text::char(9) AS c"
            " FROM generate_series(1, 50) AS i"
        )
        return fingerprint_schema(session)


def test_formats_of_the_session_do_not_matter(database: DatabaseFactory) -> None:
    target = database("empty")
    before = _of_every_type(target)
    odd = {
        "DateStyle": "German",
        "IntervalStyle": "sql_standard",
        "TimeZone": "Asia/Tokyo",
        "bytea_output": "escape",
        "extra_float_digits": "-5",
    }
    with connect(target, settings=odd) as session:
        assert fingerprint_schema(session) == before
        with session.transaction():
            fingerprint_schema_in_a_transaction = fingerprint(session, sql.Identifier("public", "all_types"))
            assert session.value("SHOW DateStyle") == "German, DMY"
    assert fingerprint_schema_in_a_transaction == before["public.all_types"]


def test_chunks_and_workers_give_what_one_statement_gives(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BLOCKS", 3)
    target = database("empty")
    with connect(target) as session, connect(target) as one, connect(target) as two:
        session.execute(
            "CREATE TABLE plain AS SELECT i, repeat('x', 100) AS t FROM generate_series(1, 3000) i"
        )
        session.execute("CREATE TABLE parent (t text, k int) PARTITION BY RANGE (k)")
        session.execute("CREATE TABLE low PARTITION OF parent FOR VALUES FROM (0) TO (500)")
        session.execute("CREATE TABLE high (k int, t text)")
        session.execute("ALTER TABLE parent ATTACH PARTITION high FOR VALUES FROM (500) TO (9999)")
        session.execute("INSERT INTO parent SELECT repeat('y', 90), i FROM generate_series(1, 2000) i")
        session.execute("CREATE TABLE no_partitions (k int) PARTITION BY LIST (k)")
        session.execute("CREATE TABLE nothing ()")
        session.execute("CREATE TEMP TABLE passing (k int)")
        found = fingerprint_schema(session, workers=[one, two])
        assert found == {
            "public.plain": fingerprint(session, sql.Identifier("public", "plain")),
            "public.parent": fingerprint(session, sql.Identifier("public", "parent")),
            "public.no_partitions": Fingerprint(),
            "public.nothing": Fingerprint(),
        }
        assert found["public.parent"].rows == 2000


def test_all_tables_are_seen_at_one_moment(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = database("empty")
    with connect(target) as session, connect(target) as worker, connect(target) as writer:
        writer.execute("CREATE TABLE a AS SELECT 1 AS x")
        writer.execute("CREATE TABLE b AS SELECT 1 AS x")
        chunks = module._chunks

        def write_meanwhile(row: dict[str, Any]) -> Any:
            writer.execute("INSERT INTO b VALUES (2)")
            return chunks(row)

        monkeypatch.setattr(module, "_chunks", write_meanwhile)
        found = fingerprint_schema(session, workers=[worker])
        assert {name: each.rows for name, each in found.items()} == {"public.a": 1, "public.b": 1}
        assert writer.value("SELECT count(*) FROM b") == 3


def test_only_some_columns_and_only_some_schemas(database: DatabaseFactory) -> None:
    with connect(database("v7")) as session:
        scopes = sql.Identifier("mandate", "scopes")
        some = fingerprint(session, scopes, [sql.SQL("scope_id::text"), sql.Identifier("service")])
        assert some == fingerprint(session, sql.SQL("SELECT scope_id::text, service FROM mandate.scopes"))
        assert some != fingerprint(session, scopes)
        assert fingerprint_schema(session, ["public"]) == {}
        assert len(fingerprint_schema(session, ["mandate"])) == 8


def test_rows_that_a_policy_hides_are_an_error(postgres: EmbeddedServer, database: DatabaseFactory) -> None:
    target = database("empty")
    with connect(target) as session:
        session.execute("CREATE TABLE secret AS SELECT 1 AS x")
        session.execute("ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
        session.execute("GRANT SELECT ON secret TO pg_monitor")
        with session.transaction():
            session.execute("SET LOCAL ROLE pg_monitor")
            with pytest.raises(DatabaseError, match="row-level security"), session.transaction():
                fingerprint(session, sql.Identifier("public", "secret"))
