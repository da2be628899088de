"""Everything that belongs to a table changes places with it, forward and back."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import LiteralString

import pytest
from psycopg import sql
from tests.servers import DatabaseFactory
from tests.shadowing import (
    build_all,
    drop_schemas,
    graph_of,
    move,
    run_script,
    schema_dump,
    session_of,
    swap,
)

from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.progress import Silent
from mandate.rekey import build, engine, objects, refuse, spec
from mandate.rekey.direction import BACK, FORWARD
from mandate.rekey.options import Options

SINK = (Path(__file__).parent.parent / "sql" / "kitchen_sink.sql").read_text("utf-8")

TO_BIGINT = """
[rekey]
name = "sink"
[[key]]
table = "sink.customers"
columns = ["id"]
[[key.new]]
name = "id"
type = "bigint"
expression = "id::bigint"
inverse = "id::integer"
[[key]]
table = "sink.orders"
columns = ["id"]
[[key.new]]
name = "id"
type = "bigint"
expression = "id::bigint"
inverse = "id::integer"
"""

# What int -> bigint changes in a dump, and nothing else: columns of that type, and what is made for it.
WIDENED = [
    (r"^( +(id|referred_by|order_id|customer|payer)) integer", r"\1 bigint"),
    (r"int4_minmax_multi_ops", "int8_minmax_multi_ops"),
    (r"\(id % 10\)", "(id % (10)::bigint)"),
    (r"\(id % 7\)", "(id % 7::bigint)"),
    (r"NULL::integer AS id", "NULL::bigint AS id"),
    (r"^    AS integer\n", ""),
]


@pytest.fixture
def sink(database: DatabaseFactory) -> Target:
    target = database("empty")
    run_script(target, SINK)
    return target


@pytest.fixture
def swapped(sink: Target) -> Target:
    with session_of(sink) as session:
        graph = graph_of(session, TO_BIGINT)
        build_all(session, graph)
        swap(session, graph)
    return sink


def widened(dump: list[str]) -> list[str]:
    made = []
    for statement in dump:
        for pattern, replacement in WIDENED:
            statement = re.sub(pattern, replacement, statement, flags=re.MULTILINE)
        made.append(statement)
    return sorted(made)


def test_a_dump_differs_in_the_types_alone_and_after_the_way_back_in_nothing(
    database: DatabaseFactory, any_postgres: EmbeddedServer
) -> None:
    target = database("empty", server=any_postgres)
    run_script(target, SINK)
    before = schema_dump(target)
    with session_of(target) as session:
        graph = graph_of(session, TO_BIGINT)
        assert refuse.problems(session, graph) == []
        assert build.dropped(session, graph) == []
        build_all(session, graph)
        assert schema_dump(target) == before, "clients must not see anything before the swap"
        swap(session, graph)
        assert schema_dump(target) == widened(before)
        swap(session, graph, BACK)
        assert schema_dump(target) == before
        drop_schemas(session, graph)
    assert schema_dump(target) == before


def test_planning_leaves_nothing_behind(sink: Target) -> None:
    before = schema_dump(sink)
    with session_of(sink) as session:
        refuse.problems(session, graph_of(session, TO_BIGINT))
        assert session.value("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^mandate_'") == 0
    assert schema_dump(sink) == before


def test_nothing_of_the_new_tables_needs_the_old_ones(swapped: Target) -> None:
    with session_of(swapped) as session:
        for name in ("mandate_new_sink", "mandate_pre_sink", "mandate_rekey_sink"):
            session.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
        number = session.value("INSERT INTO sink.orders (customer, total) VALUES (4, 1) RETURNING id")
        assert session.value("SELECT sink.count_orders()") == 51
        session.execute("INSERT INTO sink.customers (\"Name\") VALUES ('new')")
        assert session.value("SELECT count(*) FROM sink.grouped") == 21
        assert number > 100


def test_clients_work_on_the_new_tables_as_they_did_on_the_old_ones(swapped: Target) -> None:
    with session_of(swapped) as session:
        with pytest.raises(DatabaseError, match="refused DELETE on customers"):
            session.execute("DELETE FROM sink.customers WHERE id = 1")
        with pytest.raises(DatabaseError, match="customers_born"):
            session.execute("INSERT INTO sink.customers (\"Name\", born) VALUES ('old', '1800-01-01')")
        new = session.value("INSERT INTO sink.orders (customer, total) VALUES (4, 5000) RETURNING id")
        session.execute("INSERT INTO sink.lines VALUES (%s, 1, 'x')", (new,))
        session.execute("INSERT INTO sink.returns (order_id, line) VALUES (%s, 1)", (new,))
        before = session.value("SELECT orders FROM sink.grouped WHERE id = 4")
        session.execute("INSERT INTO sink.orders (customer, total) VALUES (4, 1)")
        assert session.value("SELECT orders FROM sink.grouped WHERE id = 4") == before + 1
        assert session.value("SELECT sink.count_orders()") == 52
        assert session.value("SELECT count(*) FROM sink.totals") == 20
        session.execute("DELETE FROM sink.lines WHERE order_id = %s", (new,))
        assert session.value("SELECT count(*) FROM sink.returns WHERE line IS NULL") == 1


CALLS: LiteralString = """
    SELECT sink.last_customer(),
        (SELECT n.id FROM sink.customers c, sink.customers_like(c) AS n WHERE n.id = c.id LIMIT 1),
        (SELECT (o.one).total FROM sink.customers c, sink.orders_of(c) AS o LIMIT 1)
"""


def test_a_client_that_stays_can_call_what_it_called_before(sink: Target) -> None:
    """Its session remembers the types of a function's body."""
    with session_of(sink) as client, session_of(sink) as session:
        called = client.rows(CALLS)
        graph = graph_of(session, TO_BIGINT)
        build_all(session, graph)
        swap(session, graph)
        assert client.rows(CALLS) == called
        session.execute("INSERT INTO sink.customers (id, \"Name\") VALUES (5000000000, 'big')")
        assert client.value("SELECT sink.last_customer()") == "5000000000"
        assert (
            client.value("SELECT count(*) FROM sink.customers c, sink.customers_like(c) WHERE c.id > 9999")
            > 0
        )
        session.execute("ALTER TABLE sink.customers DISABLE TRIGGER customers_refuse")
        session.execute("DELETE FROM sink.customers WHERE id = 5000000000")
        swap(session, graph, BACK)
        assert client.rows(CALLS) == called


def test_numbers_go_on_where_they_stopped_both_ways(sink: Target) -> None:
    with session_of(sink) as session:
        graph = graph_of(session, TO_BIGINT)
        build_all(session, graph)
        last = session.value("SELECT nextval('sink.customers_id_seq')")
        swap(session, graph)
        seen = [session.value("SELECT nextval('sink.customers_id_seq')")]
        order = "INSERT INTO sink.orders (customer, total) VALUES (1, 1) RETURNING id"
        known = session.value("SELECT max(id) FROM sink.orders")
        orders = [session.value(order)]
        assert session.value("SELECT pg_get_serial_sequence('sink.customers', 'id')") == (
            "sink.customers_id_seq"
        )
        swap(session, graph, BACK)
        seen.append(session.value("SELECT nextval('sink.customers_id_seq')"))
        session.execute("INSERT INTO sink.orders (customer, total) VALUES (1, 1)")
        orders.append(session.value("SELECT max(id) FROM sink.orders"))
    assert last < seen[0] < seen[1]
    assert known < orders[0] < orders[1]


def test_the_side_that_lags_takes_rows_in_any_order_and_does_nothing_by_itself(swapped: Target) -> None:
    """As catch-up writes in the reverse window: parents go and come, children stay, no trigger fires."""
    with session_of(swapped) as session:
        old = session.value("SELECT count(*) FROM mandate_pre_sink.orders")
        with session.transaction():
            session.execute("DELETE FROM mandate_pre_sink.customers WHERE id = 1")
            session.execute("INSERT INTO mandate_pre_sink.customers (id, \"Name\") VALUES (1, 'again')")
        assert session.value("SELECT count(*) FROM mandate_pre_sink.orders") == old
        # What refers to nobody's table must not hold a client up.
        session.execute("UPDATE mandate_pre_sink.customers SET country = 'zz' WHERE id = 4")
        session.execute("UPDATE sink.customers SET country = 'de'")
        session.execute("DELETE FROM sink.countries WHERE code = 'nl'")


def test_foreign_keys_of_the_shadows_hold_no_client_up(sink: Target) -> None:
    with session_of(sink) as session:
        graph = graph_of(session, TO_BIGINT)
        build_all(session, graph)
        session.execute("UPDATE sink.customers SET country = 'de'")
        session.execute("DELETE FROM sink.countries WHERE code = 'nl'")


def test_foreign_keys_are_proven_again_after_the_swap(swapped: Target) -> None:
    with session_of(swapped) as session:
        unproven = session.rows(
            "SELECT conname FROM pg_constraint WHERE NOT convalidated AND contype = 'f'"
            " AND connamespace = 'sink'::regnamespace"
        )
        assert [row["conname"] for row in unproven] == ["returns_unproven"]


def test_policies_look_into_the_new_tables(swapped: Target) -> None:
    with session_of(swapped) as session:
        rows = session.rows(
            "SELECT p.polname AS policy, array_agg(DISTINCT n.nspname) AS schemas"
            " FROM pg_policy p JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid"
            " JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class t ON t.oid = p.polrelid"
            " WHERE t.relnamespace = 'sink'::regnamespace GROUP BY 1"
        )
    assert {row["policy"] for row in rows} == {"everybody", "mine", "parcels_of"}
    assert all(row["schemas"] == ["sink"] for row in rows)


def test_the_publication_has_the_new_table_and_not_the_old_one(swapped: Target) -> None:
    with session_of(swapped) as session:
        rows = session.rows("SELECT schemaname || '.' || tablename AS t FROM pg_publication_tables")
    assert sorted(row["t"] for row in rows) == ["sink.countries", "sink.lines"]


def test_locking_a_view_locks_no_table_that_it_reads(sink: Target) -> None:
    with session_of(sink) as session, session_of(sink) as other:
        statements = objects.to_lock(session, graph_of(session, TO_BIGINT))
        with session.transaction():
            for statement in takewhile(lambda it: not it.as_string().startswith("LOCK TABLE"), statements):
                session.execute(statement)
            locked = session.rows(
                "SELECT DISTINCT relation::regclass::text AS name FROM pg_locks WHERE pid = pg_backend_pid()"
                " AND mode = 'AccessExclusiveLock' AND relation IS NOT NULL"
            )
            other.execute("INSERT INTO sink.orders (customer, total) VALUES (1, 1)")
    names = {row["name"] for row in locked}
    assert {"sink.big_orders", "sink.biggest", "sink.totals", "sink.top"} <= names
    assert names.isdisjoint({"sink.orders", "sink.customers", "sink.lines", "sink.returns"})


def test_every_table_its_neighbours_and_its_sequences_are_locked(sink: Target) -> None:
    with session_of(sink) as session, session.transaction():
        for statement in objects.to_lock(session, graph_of(session, TO_BIGINT)):
            session.execute(statement)
        before = locks(session)
        assert {"sink.countries", "sink.customers", "sink.orders", "sink.parcels"} <= before
        assert any(name.endswith("_id_seq") for name in before)


def locks(session: Session) -> set[str]:
    rows = session.rows(
        "SELECT relation::regclass::text AS name FROM pg_locks WHERE pid = pg_backend_pid()"
        " AND mode = 'AccessExclusiveLock' AND relation IS NOT NULL"
    )
    return {row["name"] for row in rows}


def test_the_swap_locks_no_table_that_was_not_locked_first(sink: Target) -> None:
    with session_of(sink) as session:
        graph = graph_of(session, TO_BIGINT)
        build_all(session, graph)
        with session.transaction():
            for statement in objects.to_lock(session, graph):
                session.execute(statement)
            first = tables_locked(session)
            move(session, graph, FORWARD)
            assert tables_locked(session) - first <= {
                f"mandate_new_sink.{table.old.name}" for table in graph.tables
            } | {f"sink.{table.old.name}" for table in graph.tables} | {
                f"mandate_pre_sink.{table.old.name}" for table in graph.tables
            }


def tables_locked(session: Session) -> set[str]:
    """Tables on which a writer would wait."""
    rows = session.rows(
        "SELECT DISTINCT c.oid::regclass::text AS name FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
        " WHERE l.pid = pg_backend_pid() AND c.relkind = 'r' AND c.relnamespace <> 'pg_catalog'::regnamespace"
        " AND l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')"
    )
    return {row["name"] for row in rows}


def test_what_somebody_changes_meanwhile_is_named(sink: Target) -> None:
    with session_of(sink) as session:
        graph = graph_of(session, TO_BIGINT)
        build_all(session, graph)
        assert objects.drift(session, graph) == []
        run_script(
            sink,
            "ALTER TABLE sink.orders ADD COLUMN late text;"
            "DROP INDEX sink.customers_twin_1;"
            "ALTER TABLE sink.customers DISABLE TRIGGER customers_refuse;"
            "CREATE VIEW sink.late AS SELECT 1 AS one FROM sink.lines;",
        )
        assert objects.drift(session, graph) == [
            "column late of sink.orders was added",
            "column one of sink.late was added",
            "index customers_twin_1 of sink.customers was dropped",
            "trigger customers_refuse of sink.customers was changed",
            "view sink.late was added",
        ]


EIGHTEEN = """
CREATE SCHEMA e;
CREATE TABLE e.parent (
    id integer CONSTRAINT "id wanted" NOT NULL,
    half integer GENERATED ALWAYS AS (id / 2) VIRTUAL,
    late text,
    CONSTRAINT parent_key PRIMARY KEY (id),
    CONSTRAINT parent_small CHECK (id < 10) NOT ENFORCED
);
CREATE TABLE e.child (
    id integer PRIMARY KEY,
    parent integer,
    named integer CONSTRAINT parent_named NOT NULL,
    CONSTRAINT child_loose FOREIGN KEY (parent) REFERENCES e.parent NOT ENFORCED,
    FOREIGN KEY (named) REFERENCES e.parent
);
COMMENT ON CONSTRAINT "id wanted" ON e.parent IS 'so it is';
INSERT INTO e.parent (id) VALUES (1), (20);
ALTER TABLE e.parent ADD CONSTRAINT "late wanted" NOT NULL late NOT VALID;
INSERT INTO e.child VALUES (1, 99, 1);
"""


def test_what_only_eighteen_has_comes_along(database: DatabaseFactory) -> None:
    target = database("empty")
    run_script(target, EIGHTEEN)
    before = schema_dump(target)
    text = TO_BIGINT.split('[[key]]\ntable = "sink.orders"')[0].replace("sink.customers", "e.parent")
    with session_of(target) as session:
        graph = graph_of(session, text)
        assert refuse.problems(session, graph) == []
        build_all(session, graph)
        swap(session, graph)
        after = schema_dump(target)
        swap(session, graph, BACK)
        drop_schemas(session, graph)
    # The child's own key stays what it was.
    widened_ = [re.sub(r"(?m)^( +(parent|named|id)) integer", r"\1 bigint", each) for each in before]
    narrow = "    id integer NOT NULL,\n    parent"
    assert after == sorted(each.replace(narrow.replace("integer", "bigint"), narrow) for each in widened_)
    assert schema_dump(target) == before


def test_the_engine_carries_all_of_it_under_readers_of_the_views(sink: Target) -> None:
    """A reader locks a view and then its tables; a swap that locked tables first would never get through."""
    before = schema_dump(sink)
    change = engine.Engine(sink, spec.parse(TO_BIGINT), Options(jobs=2), Silent())
    with reading(sink, "SELECT count(*) FROM sink.grouped") as answers:
        change.run()
        change.rollback()
        assert without_record(schema_dump(sink)) == before
        change.run()
        change.finalize()
        assert without_record(schema_dump(sink)) == widened(before)
    assert answers
    assert set(answers) == {"20"}


def without_record(dump: list[str]) -> list[str]:
    return [statement for statement in dump if "mandate_conductor" not in statement]


@contextmanager
def reading(target: Target, query: LiteralString) -> Iterator[list[str]]:
    """Two clients that ask the same question all the time; their answers, and what went wrong."""
    answers: list[str] = []
    stop = threading.Event()

    def read() -> None:
        with connect(target) as session:
            while not stop.is_set():
                try:
                    answers.append(str(session.value(query)))
                except DatabaseError as error:
                    answers.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
