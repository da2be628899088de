"""The plan of a key change against what a run then really takes and locks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.commands import mandate
from tests.servers import DatabaseFactory
from tests.shops import SHOP, TENANTS, TO_BIGINT, TO_NATURAL, change, create, schemas_left, writing
from tests.sqlfiles import psql

from mandate.cli import rekey_plan
from mandate.postgres import disk
from mandate.postgres.connection import Target, connect
from mandate.progress import Silent
from mandate.rekey import catalogue, cutover, estimate, forecast, locks, objects, spec
from mandate.rekey.discover import discover
from mandate.rekey.forecast import Forecast
from mandate.rekey.model import Graph

pytestmark = pytest.mark.slow

# About 100,000 rows, some of them wide.
MANY = b"""
INSERT INTO shop.customers (name, note)
SELECT 'c ' || i, CASE WHEN i % 50 = 0 THEN repeat(md5(i::text), 100) ELSE 'n' || i END
FROM generate_series(1000, 9999) i;
INSERT INTO shop.orders (customer_id, total) SELECT 1 + i % 500, i FROM generate_series(1, 30000) i;
INSERT INTO shop.lines
SELECT id, 100 + l, customer_id, 'item ' || id FROM shop.orders, generate_series(1, 2) l;
VACUUM ANALYZE shop.customers;
VACUUM ANALYZE shop.orders;
VACUUM ANALYZE shop.lines;
"""

AROUND = b"""
CREATE SCHEMA "Odd place";
CREATE TABLE "Odd place"."Currencies" (code text PRIMARY KEY);
ALTER TABLE shop.orders ADD COLUMN currency text REFERENCES "Odd place"."Currencies";
CREATE VIEW shop.open_orders AS SELECT id, customer_id FROM shop.orders;
CREATE MATERIALIZED VIEW shop.totals AS SELECT customer_id, sum(total) FROM shop.orders GROUP BY 1;
"""


def statements(script: bytes) -> list[bytes]:
    return [part for part in script.split(b";\n") if part.strip()]


def many(target: Target) -> None:
    create(target, SHOP)
    with connect(target) as session:
        for statement in statements(MANY):
            session.execute(statement)


def look(target: Target, text: str, *, sample: bool = True) -> tuple[Graph, Forecast]:
    with connect(target) as session:
        graph = discover(session, spec.parse(text))
        return graph, forecast.make(session, target, graph, jobs=2, sample=sample)


def close(estimated: float, real: float) -> bool:
    return real / 1.5 <= estimated <= real * 1.5


SIZES = b"""
SELECT c.oid::regclass::text AS name, pg_relation_size(c.oid) AS heap, pg_indexes_size(c.oid) AS indexes,
    CASE WHEN c.reltoastrelid <> 0 THEN pg_total_relation_size(c.reltoastrelid) ELSE 0 END AS toast
FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'shop'::regnamespace
"""


@pytest.mark.parametrize("sample", [True, False])
def test_a_run_takes_what_the_plan_said(database: DatabaseFactory, sample: bool) -> None:
    target = database("empty")
    many(target)
    _, made = look(target, TO_BIGINT, sample=sample)
    with connect(target) as session:
        before = session.value("SELECT pg_current_wal_insert_lsn()")
    change(target, TO_BIGINT).run()
    with connect(target) as session:
        wal = session.value("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)", (before,))
        real = {row["name"]: row for row in session.rows(SIZES)}
    for table in made.tables:
        row = real[table.table]
        if table.rows > 1000:
            assert close(table.new_heap_bytes, row["heap"]), table
            assert close(table.new_index_bytes, row["indexes"]), table
    taken = sum(real[table.table][what] for table in made.tables for what in ("heap", "indexes", "toast"))
    assert close(sum(table.new_bytes for table in made.tables), taken)
    assert close(made.wal, float(wal))
    assert made.eta.source == ("sample" if sample else "none")


def test_new_keys_of_unknown_width_are_measured_on_some_parents(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, TENANTS)
    with connect(target) as session:
        session.execute("UPDATE app.projects SET slug = slug || repeat('-', 300)")
        session.execute(
            "INSERT INTO app.tasks (project_id, title) SELECT project_id, title"
            " FROM app.tasks, generate_series(1, 30)"
        )
        for name in ("tenants", "projects", "tasks"):
            session.execute(b"ANALYZE app." + name.encode())
        graph = discover(session, spec.parse(TO_NATURAL))
        parts = forecast.need(session, graph, 2)
    _, sampled = look(target, TO_NATURAL)
    change(target, TO_NATURAL).run()
    with connect(target) as session:
        real = session.value("SELECT pg_relation_size('app.tasks')")
    tasks = next(table for table in sampled.tables if table.table == "app.tasks")
    assert tasks.width_factor > 3
    assert close(tasks.new_heap_bytes, real)
    assert close(next(part.bytes for part in parts if part.what == "new tables"), real)
    assert any(part.what == "maps of keys" for part in parts)


def test_it_changes_nothing(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("empty")
    many(target)
    create(target, TENANTS)

    def state() -> tuple[object, ...]:
        with connect(target) as session:
            return (
                session.rows("SELECT relname, relnamespace, relfilenode FROM pg_class ORDER BY 1, 2"),
                session.rows("SELECT nspname FROM pg_namespace ORDER BY 1"),
                session.rows("SELECT tgname FROM pg_trigger ORDER BY 1"),
                session.value("SELECT last_value FROM shop.customers_id_seq"),
            )

    before = state()
    for text in (TO_BIGINT, TO_NATURAL):
        _, made = look(target, text)
        assert made.not_sampled is None
        assert made.sample_seconds is not None
    assert state() == before


def test_writers_do_not_notice_a_sample_and_their_rate_is_seen(database: DatabaseFactory) -> None:
    target = database("empty")
    many(target)
    with writing(target) as writers:
        _, made = look(target, TO_BIGINT)
    assert made.server.writes_per_second
    assert estimate.log_bytes(made.server, 3600) > 0
    assert all(writer.failures == [] and writer.statements > 0 for writer in writers)
    with connect(target) as session:
        for writer in writers:
            writer.check(session)


def test_the_locks_of_the_cutover_are_those_that_it_takes(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    create(target, AROUND)
    with connect(target) as session:
        graph = discover(session, spec.parse(TO_BIGINT))
        kept = catalogue.live(session, graph)
        said = {
            name
            for lock in locks.of_change(graph, kept, cutover.Options())
            if lock.phase.startswith("cutover")
            for name in lock.tables
        }
        with session.transaction():
            for statement in objects.to_lock(session, graph):
                session.execute(statement)
            rows = session.rows(
                "SELECT relation::regclass::text AS name FROM pg_locks JOIN pg_class c ON c.oid = relation"
                " WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock'"
                " AND c.relkind IN ('r', 'v', 'm')"
            )
    taken = {row["name"] for row in rows}
    assert taken == said
    assert {'"Odd place"."Currencies"', "shop.open_orders", "shop.totals", "shop.lines"} <= said


def test_an_earlier_run_tells_the_time(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    made = change(target, TO_BIGINT)
    made.run()
    made.rollback()
    graph, plan = look(target, TO_BIGINT)
    assert plan.eta.source == "earlier run"
    assert plan.eta.seconds
    assert plan.earlier is not None
    assert "as long as the run of" in rekey_plan.page(target, graph, [], plan)


class _Dies(Silent):
    def line(self, text: str) -> None:
        if text.startswith("copy "):
            raise KeyboardInterrupt


def test_beside_a_change_that_is_under_way(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    with pytest.raises(KeyboardInterrupt):
        change(target, TO_BIGINT, _Dies()).run()
    _, made = look(target, TO_BIGINT)
    assert made.not_sampled == "a change of this name is under way"
    assert made.eta.seconds is None
    assert made.needed > 0


BROKEN = TO_BIGINT.replace('"id::bigint"', '"1000 / (id - 5)"')


def test_an_expression_that_fails_on_rows(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    graph, made = look(target, BROKEN)
    assert made.not_sampled == "division by zero"
    assert "no sample: division by zero" in rekey_plan.page(target, graph, [], made)
    with connect(target) as session:
        assert schemas_left(session) == []


def test_tables_without_a_row_or_statistics(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP.partition(b"INSERT")[0])
    for sample in (True, False):
        _, made = look(target, TO_BIGINT, sample=sample)
        assert [table.rows for table in made.tables] == [0, 0, 0, 0]


def test_who_may_not_read_gets_a_plan_of_the_catalogue(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    with connect(target) as session:
        session.execute(
            "DROP ROLE IF EXISTS blind; CREATE ROLE blind LOGIN; GRANT USAGE ON SCHEMA shop TO blind"
        )
    blind = Target({**target.parameters, "user": "blind"})
    _, made = look(blind, TO_BIGINT)
    assert "permission denied" in (made.not_sampled or "")
    _, made = look(blind, TO_BIGINT, sample=False)
    assert made.needed > 0
    assert all(place.free is None and "pg_read_all_settings" in (place.why or "") for place in made.places)


@pytest.mark.parametrize("host", ["db.example.com", "192.0.2.7"])
def test_a_server_on_another_host(database: DatabaseFactory, host: str) -> None:
    target = database("empty")
    create(target, SHOP)
    with connect(target) as session:
        elsewhere = Target({**target.parameters, "host": host})
        found = disk.volumes(session, elsewhere, {None, disk.WAL})
    assert [volume.why for volume in found] == ["the server is on another host"] * 2
    assert all(volume.free is None for volume in found)


def plan(target: Target, file: Path, *options: str) -> tuple[int, str]:
    done = mandate("rekey", "plan", file, *options, env={"DATABASE_URL": target.conninfo})
    return done.returncode, done.stdout


def test_the_page_and_the_document(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("empty")
    create(target, SHOP)
    create(target, AROUND)
    file = tmp_path / "shop.toml"
    file.write_text(TO_BIGINT)
    code, page = plan(target, file)
    assert code == 0
    assert max(len(line) for line in page.splitlines() if "mandate-tests-" not in line) <= 80
    for word in ("new tables", "their indexes", "WAL", "free", "margin", "EXCLUSIVE", "Currencies", "copy"):
        assert word in page
    assert "rolled back" in page
    code, text = plan(target, file, "--no-sample", "--format", "json")
    document = json.loads(text)
    assert document["schema"] == "mandate.rekey-plan/1"
    assert document["sample_seconds"] is None
    assert {"heap_bytes", "toast_bytes", "index_bytes", "new_bytes", "rows", "changes"} <= set(
        document["tables"][0]
    )
    assert document["needed"] == sum(part["bytes"] for part in document["parts"])
    assert {lock["phase"] for lock in document["locks"]} >= {"capture", "cutover, rollback"}


def test_a_table_whose_name_is_too_long_for_the_page(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("empty")
    name = "n" * 63
    done = psql(target, f"CREATE TABLE {name} (id int PRIMARY KEY)")
    assert done.returncode == 0
    file = tmp_path / "long.toml"
    text = TO_BIGINT.partition('[[key]]\ntable = "shop.orders"')[0]
    file.write_text(text.replace("shop.customers", f"public.{name}"))
    code, page = plan(target, file)
    assert code == 0
    assert max(len(line) for line in page.splitlines() if "mandate-tests-" not in line) <= 80
