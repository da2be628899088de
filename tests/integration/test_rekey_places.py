"""Tables in a tablespace of their own, and rows that policies hide, stay where they are and hidden."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql
from tests.disks import tablespace
from tests.sampling import PLACE, dump
from tests.servers import DatabaseFactory
from tests.shadowing import run_script
from tests.shops import change

from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer

KEY = """
[rekey]
name = "places"
[[key]]
table = "public.a"
columns = ["id"]
[[key.new]]
name = "id"
type = "bigint"
expression = "id::bigint"
"""
TENANTS = (PLACE / "tenants.toml").read_text("utf-8")


@pytest.fixture
def aside(postgres: EmbeddedServer) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        with tablespace(postgres, place) as made:
            yield made


def spread(target: Target) -> dict[str, str | None]:
    """Relation -> its tablespace, None: the database's."""
    with connect(target) as session:
        rows = session.rows(
            "SELECT c.relname, s.spcname FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i', 'm')"
        )
    return {row["relname"]: row["spcname"] for row in rows}


def test_tables_and_indexes_stay_in_their_tablespace(aside: str, database: DatabaseFactory) -> None:
    target = database("empty")
    run_script(
        target,
        f"""
        CREATE TABLE a (id int, n text, PRIMARY KEY (id) USING INDEX TABLESPACE {aside});
        CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a) TABLESPACE {aside};
        CREATE INDEX b_a ON b (a);
        CREATE INDEX b_both ON b (a, id) TABLESPACE {aside};
        CREATE MATERIALIZED VIEW m TABLESPACE {aside} AS SELECT a, count(*) FROM b GROUP BY 1;
        INSERT INTO a SELECT i, i FROM generate_series(1, 100) i;
        INSERT INTO b SELECT i, i FROM generate_series(1, 100) i;
        """,
    )
    before, text = spread(target), dump(target)
    assert before == {
        "a": None,
        "a_pkey": aside,
        "b": aside,
        "b_pkey": None,
        "b_a": None,
        "b_both": aside,
        "m": aside,
    }
    engine = change(target, KEY)
    engine.run()
    assert spread(target) == before
    engine.rollback()
    assert (spread(target), dump(target)) == (before, text)
    engine.run()
    engine.finalize()
    assert spread(target) == before
    with connect(target) as session:
        session.execute("DROP TABLE a, b CASCADE")


def seen(target: Target, tenant: int) -> list[int]:
    """How many rows of each table a client of one tenant sees."""
    with connect(target) as session, session.transaction():
        session.execute("SET LOCAL ROLE pg_read_all_data")
        session.execute("SELECT set_config('app.tenant', %s, true)", (str(tenant),))
        return [
            session.value(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("saas", name)))
            for name in ("tenants", "users", "documents", "comments")
        ]


def test_a_tenant_sees_the_same_rows_before_and_after(database: DatabaseFactory) -> None:
    target = database("empty")
    run_script(target, (PLACE / "tenants.sql").read_text("utf-8"))
    before = [seen(target, tenant) for tenant in (1, 2, 99)]
    assert before[0][:3] == [1, 20, 50]
    assert before[2] == [0, 0, 0, 0]
    engine = change(target, TENANTS)
    engine.run()
    assert [seen(target, tenant) for tenant in (1, 2, 99)] == before
    engine.rollback()
    assert [seen(target, tenant) for tenant in (1, 2, 99)] == before
