"""Key changes of other people's tables, from the first phase to the last, with and without writers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.servers import DatabaseFactory
from tests.shops import (
    SHOP,
    TENANTS,
    TO_BIGINT,
    TO_NATURAL,
    change,
    create,
    schemas_left,
    writing,
)

from mandate.errors import CheckFailed
from mandate.postgres.connection import Session, Target, connect
from mandate.rekey.options import Hooks

pytestmark = pytest.mark.slow

TABLES = ("customers", "orders", "lines", "returns")


def rows(session: Session) -> dict[str, list[tuple[str, ...]]]:
    """Every row of the shop as text: the same before and after int -> bigint."""
    queries = {
        "customers": "SELECT t::text FROM shop.customers t ORDER BY id",
        "orders": "SELECT t::text FROM shop.orders t ORDER BY id",
        "lines": "SELECT t::text FROM shop.lines t ORDER BY order_id, line",
        "returns": "SELECT t::text FROM shop.returns t ORDER BY id",
        "untouched": "SELECT t::text FROM shop.untouched t ORDER BY id",
    }
    return {name: [tuple(r.values()) for r in session.rows(query)] for name, query in queries.items()}


def types(session: Session) -> dict[str, str]:
    found = session.rows(
        "SELECT table_name || '.' || column_name AS name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'shop'"
    )
    return {row["name"]: row["data_type"] for row in found}


def indexes(session: Session) -> list[str]:
    return [
        r["d"]
        for r in session.rows("SELECT indexdef AS d FROM pg_indexes WHERE schemaname='shop' ORDER BY 1")
    ]


def constraints(session: Session) -> list[str]:
    return [
        f"{r['n']} {r['d']}"
        for r in session.rows(
            "SELECT conrelid::regclass::text || '.' || conname AS n, pg_get_constraintdef(oid) AS d"
            " FROM pg_constraint WHERE connamespace = 'shop'::regnamespace AND contype <> 'n' ORDER BY 1"
        )
    ]


def test_int_to_bigint_through_several_levels_and_itself(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    with connect(target) as session:
        before = rows(session), indexes(session), constraints(session)
    change(target, TO_BIGINT).run()
    with connect(target) as session:
        assert (rows(session), indexes(session), constraints(session)) == before
        found = types(session)
        for column in (
            "customers.id",
            "customers.referred_by",
            "orders.id",
            "orders.customer_id",
            "lines.order_id",
            "lines.customer_id",
            "returns.order_id",
        ):
            assert found[column] == "bigint"
        assert found["lines.line"] == "integer"
        assert found["returns.id"] == "integer"
        session.execute("SELECT setval('shop.customers_id_seq', 3000000000)")
        session.execute("INSERT INTO shop.customers (name) VALUES ('beyond int')")
        assert session.value("SELECT id FROM shop.customers WHERE name = 'beyond int'") == 3000000001


def test_finalize_leaves_only_the_record(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    engine = change(target, TO_BIGINT)
    figures = engine.run()
    assert engine.run() == figures, "there is nothing left to do"
    engine.finalize()
    with connect(target) as session:
        assert schemas_left(session) == []
        assert not session.rows("SELECT tgname FROM pg_trigger WHERE tgname LIKE '%mandate%'")
        assert session.value("SELECT status FROM mandate_conductor.rekeys") == "finalized"


def test_rollback_brings_back_the_old_keys_with_what_was_written_since(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    with connect(target) as session:
        schema = types(session), indexes(session), constraints(session)
    engine = change(target, TO_BIGINT)
    engine.run()
    with connect(target) as session:
        session.execute("INSERT INTO shop.customers (name) VALUES ('late')")
        session.execute("INSERT INTO shop.orders (customer_id, total) SELECT max(id), 7 FROM shop.customers")
        session.execute("DELETE FROM shop.orders WHERE id = 5")
        session.execute("UPDATE shop.customers SET note = 'changed' WHERE id = 9")
        after = rows(session)
    engine.rollback()
    with connect(target) as session:
        assert rows(session) == after
        assert (types(session), indexes(session), constraints(session)) == schema
        assert schemas_left(session) == []
        session.execute("INSERT INTO shop.customers (name) VALUES ('after the rollback')")
    engine.run()
    engine.finalize()
    with connect(target) as session:
        assert types(session)["customers.id"] == "bigint"
        assert session.value("SELECT count(*) FROM shop.customers WHERE name = 'after the rollback'") == 1


def test_a_surrogate_becomes_a_composite_natural_key_and_back(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, TENANTS)
    query = (
        "SELECT k.title, p.region, p.slug, t.name FROM app.tasks k"
        " JOIN app.projects p {} JOIN app.tenants t ON t.id = p.tenant_id ORDER BY k.id"
    )
    old, new = (
        query.format("ON p.id = k.project_id"),
        query.format("ON (p.region, p.slug) = (k.project_region, k.project_slug)"),
    )
    with connect(target) as session:
        before = session.rows(old.encode())
        ids = session.rows("SELECT id::text, slug FROM app.projects ORDER BY slug")
    engine = change(target, TO_NATURAL)
    engine.run()
    with connect(target) as session:
        assert session.rows(new.encode()) == before
        session.execute("INSERT INTO app.tenants (id, name) VALUES (gen_random_uuid()::text, 'new tenant')")
        session.execute(
            "INSERT INTO app.projects (region, slug, tenant_id)"
            " SELECT 'r9', 'p9', id FROM app.tenants WHERE name = 'new tenant'"
        )
        session.execute(
            "INSERT INTO app.tasks (project_region, project_slug, title) VALUES ('r9', 'p9', 'new task')"
        )
        later = session.rows(new.encode())
    engine.rollback()
    with connect(target) as session:
        assert session.rows(old.encode()) == later
        same = session.rows("SELECT id::text, slug FROM app.projects WHERE region <> 'r9' ORDER BY slug")
        assert same == ids


def test_writers_never_fail_and_nothing_of_theirs_is_lost(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    engine = change(target, TO_BIGINT)
    with writing(target) as writers:
        engine.run()
        engine.rollback()
        engine.run()
        engine.finalize()
    with connect(target) as session:
        for writer in writers:
            assert writer.failures == []
            writer.check(session)
    assert sum(writer.statements for writer in writers) > 100


def test_a_forgotten_transaction_delays_the_cutover_and_is_named(database: DatabaseFactory) -> None:
    target: Target = database("empty")
    create(target, SHOP)
    engine = change(target, TO_BIGINT)
    with connect(target, application_name="forgotten") as forgotten:
        forgotten.execute("BEGIN")
        forgotten.execute("SELECT count(*) FROM shop.orders")
        lines: list[str] = []

        class Listening:
            """Ends the forgotten transaction as soon as it was named."""

            def line(self, text: str) -> None:
                lines.append(text)
                if "forgotten" in text:
                    forgotten.execute("ROLLBACK")

            task = engine.reporter.task

        type(engine)(target, engine.spec, engine.options, Listening()).run()
    assert any("cutover attempt 1" in line and "forgotten" in line for line in lines)


class Crash(Exception):
    """Stands for the end of the process."""


def crash(*_: object) -> list[object]:
    raise Crash


def proven(session: Session) -> bool:
    """Every foreign key of the shop is validated."""
    return not session.rows(
        "SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"
        " AND connamespace = 'shop'::regnamespace"
    )


def test_a_run_that_died_right_after_its_swap_is_finished_by_the_next_command(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = database("empty")
    create(target, SHOP)
    engine = change(target, TO_BIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("mandate.rekey.objects.proofs_after", crash)
        with pytest.raises(Crash):
            engine.run()
    assert engine.run()["cutover"] == {"resumed": "after the swap"}
    with connect(target) as session:
        assert proven(session)
        before = rows(session)
    with monkeypatch.context() as patch:
        patch.setattr("mandate.rekey.objects.proofs_after", crash)
        with pytest.raises(Crash):
            engine.rollback()
    engine.run()
    engine.finalize()
    with connect(target) as session:
        assert proven(session)
        assert rows(session) == before
        assert schemas_left(session) == []


def test_a_finalize_that_died_has_not_stopped_capturing(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = database("empty")
    create(target, SHOP)
    engine = change(target, TO_BIGINT)
    engine.run()
    with monkeypatch.context() as patch:
        patch.setattr("mandate.rekey.leftovers.drop", crash)
        with pytest.raises(Crash):
            engine.finalize()
    with connect(target) as session:
        session.execute("INSERT INTO shop.customers (name) VALUES ('in between')")
    engine.rollback()
    with connect(target) as session:
        assert session.value("SELECT count(*) FROM shop.customers WHERE name = 'in between'") == 1


def test_one_parent_changed_while_rows_are_copied_does_not_fail_its_children(
    database: DatabaseFactory,
) -> None:
    target = database("empty")
    create(target, SHOP)
    engine = change(target, TO_BIGINT)

    class Meddling:
        """Changes one customer when the copy is over."""

        task = engine.reporter.task

        def line(self, text: str) -> None:
            if text.startswith("capture"):
                with connect(target) as session:
                    session.execute("UPDATE shop.customers SET note = 'while copying' WHERE id = 3")

    type(engine)(target, engine.spec, engine.options, Meddling()).run()
    with connect(target) as session:
        assert session.value("SELECT note FROM shop.customers WHERE id = 3") == "while copying"


def test_a_column_added_meanwhile_stops_the_cutover(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    engine = change(target, TO_BIGINT)

    class Meddling:
        """Alters a table behind the engine's back."""

        task = engine.reporter.task

        def line(self, text: str) -> None:
            if text.startswith(word):
                with connect(target) as session:
                    session.execute("ALTER TABLE shop.orders ADD COLUMN surprise text")
                holder.execute("ROLLBACK")

    meddling = type(engine)(target, engine.spec, engine.options, Meddling())
    with connect(target) as holder:
        word = "verify"
        with pytest.raises(CheckFailed, match="altered since shop began"):
            meddling.run()
        holder.execute("ALTER TABLE shop.orders DROP COLUMN surprise")
        holder.execute("BEGIN; LOCK TABLE shop.lines IN ACCESS SHARE MODE")
        word = "cutover attempt"
        with pytest.raises(CheckFailed, match="altered since shop began"):
            meddling.run()
    engine.abort()
    with connect(target) as session:
        assert schemas_left(session) == []


def test_a_column_added_in_the_last_moment_or_in_the_window_is_not_lost(database: DatabaseFactory) -> None:
    target = database("empty")
    create(target, SHOP)
    engine = change(target, TO_BIGINT)

    def add(_: object) -> None:
        with connect(target) as session:
            session.execute("ALTER TABLE shop.orders ADD COLUMN surprise text DEFAULT 'kept'")

    hasty = replace(engine, options=engine.options.with_hooks(Hooks(before_locks=[add])))
    with connect(target) as session:
        for begin, end in ((hasty.run, engine.run), (engine.rollback, engine.rollback)):
            with pytest.raises(CheckFailed, match=r"would not have it: shop\.orders\.surprise"):
                begin()
            assert session.value("SELECT DISTINCT surprise FROM shop.orders") == "kept"
            session.execute("ALTER TABLE shop.orders DROP COLUMN surprise")
            end()
            add(session)
        assert schemas_left(session) == []
