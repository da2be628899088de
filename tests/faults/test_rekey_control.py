"""What others do while a change waits: pause, abort, other runs, objects that need what would be dropped."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.commands import mandate
from tests.servers import DatabaseFactory
from tests.shops import SHOP, TENANTS, TO_BIGINT, TO_NATURAL, change, create, schemas_left

from mandate.errors import CheckFailed, NeedsPerson
from mandate.postgres import lock
from mandate.postgres.connection import Target, connect
from mandate.progress import Silent
from mandate.rekey import journal
from mandate.rekey.engine import Engine
from mandate.rekey.steering import Aborted

pytestmark = pytest.mark.slow


@pytest.fixture
def target(database: DatabaseFactory) -> Target:
    made = database("empty")
    create(made, SHOP)
    return made


@dataclass
class Saying:
    """Does something as soon as a line with a word in it is said, once."""

    word: str
    work: Callable[[], None]
    said: list[str] = field(default_factory=list)

    task = Silent().task

    def line(self, text: str) -> None:
        self.said.append(text)
        if self.word in text and len([each for each in self.said if self.word in each]) == 1:
            self.work()


def saying(engine: Engine, word: str, work: Callable[[], None]) -> tuple[Engine, Saying]:
    reporter = Saying(word, work)
    return replace(engine, reporter=reporter), reporter


def ask(target: Target, name: str = "shop", **changes: bool) -> None:
    with connect(target) as session:
        assert journal.ask(session, name, **changes)


@pytest.mark.parametrize(
    ("held", "word"),
    [
        # In the way of the triggers, of the copy (by what it wrote), and of the swap.
        ("LOCK TABLE shop.orders IN SHARE UPDATE EXCLUSIVE MODE", "tables are in use"),
        ("INSERT INTO shop.untouched VALUES (-1, 'x')", "waiting for transactions to end"),
        ("LOCK TABLE shop.orders IN ACCESS SHARE MODE", "cutover attempt 1"),
    ],
)
def test_whatever_it_waits_for_an_abort_is_obeyed(target: Target, held: str, word: str) -> None:
    with connect(target, application_name="forgotten") as forgotten:
        forgotten.execute("BEGIN")
        forgotten.execute(held.encode())
        asked = threading.Event()

        def abort() -> None:
            ask(target, abort=True)
            asked.set()

        engine, reporter = saying(change(target, TO_BIGINT), word, abort)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(engine.run)
            assert asked.wait(60), "nobody was asked to abort"
            # What is in the way of the end as well is gone by then.
            forgotten.execute("ROLLBACK") if "SHARE" in held else None
            with pytest.raises(Aborted):
                running.result(60)
    assert any("forgotten" in line for line in reporter.said if word in line)
    with connect(target) as session:
        assert schemas_left(session) == []
        assert not session.rows("SELECT FROM pg_trigger WHERE NOT tgisinternal")


def test_an_abort_that_comes_after_the_swap_does_not_keep_it_from_ending(target: Target) -> None:
    engine = change(target, TO_BIGINT)
    engine.run()
    ask(target, abort=True)
    with connect(target) as session:
        for number in range(1000):
            session.execute("UPDATE shop.orders SET total = %s WHERE id = %s", (number, number + 1))
    engine.rollback()
    engine.run()
    engine.finalize()
    with connect(target) as session:
        assert schemas_left(session) == []


def test_a_lock_of_another_run_is_not_taken_for_a_sign_of_life(target: Target, tmp_path: Path) -> None:
    spec = tmp_path / "shop.toml"
    spec.write_text(TO_BIGINT)
    engine, _ = saying(change(target, TO_BIGINT), "copy", stop)
    with pytest.raises(Stopped):
        engine.run()
    with lock.held(target, f"mandate-rekey other pid {os.getpid()}"):
        done = mandate("rekey", "abort", spec, env={"DATABASE_URL": target.conninfo})
    assert done.returncode == 7, done.stderr
    assert "mandate-rekey other" in done.stderr
    with connect(target) as session:
        assert not journal.control(session, "shop").abort
        assert schemas_left(session) != []


class Stopped(Exception):
    """The conductor ends here."""


def stop() -> None:
    raise Stopped


OTHERS = {
    "view shop.mine": "CREATE VIEW shop.mine AS SELECT id FROM mandate_pre_shop.orders",
    "materialized view shop.sum": (
        "CREATE MATERIALIZED VIEW shop.sum AS SELECT count(*) FROM mandate_pre_shop.orders"
    ),
    "constraint refers_id_fkey on table shop.refers": (
        "CREATE TABLE shop.refers (id int REFERENCES mandate_pre_shop.customers)"
    ),
    "function shop.f(mandate_pre_shop.orders)": (
        "CREATE FUNCTION shop.f(mandate_pre_shop.orders) RETURNS int RETURN 1"
    ),
}


def test_nothing_of_others_is_dropped_with_the_retained_tables(target: Target) -> None:
    engine = change(target, TO_BIGINT)
    engine.run()
    for statement in OTHERS.values():
        create(target, statement.encode())
    with pytest.raises(NeedsPerson, match="something was made that needs") as refused:
        engine.finalize()
    assert sorted(text.split(" needs ")[0] for text in refused.value.fields["problems"]) == sorted(OTHERS)
    with connect(target) as session:
        # Still in step: nothing of the capture is gone either.
        session.execute("INSERT INTO shop.customers (name) VALUES ('in between')")
        session.execute(
            "DROP VIEW shop.mine; DROP MATERIALIZED VIEW shop.sum; DROP TABLE shop.refers;"
            " DROP FUNCTION shop.f"
        )
    engine.rollback()
    with connect(target) as session:
        assert session.value("SELECT count(*) FROM shop.customers WHERE name = 'in between'") == 1
        assert schemas_left(session) == []


MOVE = "UPDATE app.projects SET region = 'moved' WHERE slug = 'p1'"
FOLLOW = "UPDATE app.labels SET region = 'moved' WHERE slug = 'p1'"
LABELS = b"""
CREATE TABLE app.labels (
    region text NOT NULL, slug text NOT NULL, project_id uuid NOT NULL REFERENCES app.projects, label text,
    PRIMARY KEY (project_id, label)
);
INSERT INTO app.labels SELECT region, slug, id, 'l' || n FROM app.projects, generate_series(1, 5) n;
"""
WITH_LABELS = TO_NATURAL + (
    '\n[[reference]]\ntable = "app.labels"\ncolumns = ["project_id"]\nnew = ["region", "slug"]\n'
)


@pytest.mark.parametrize("phase", ["capture", "copy", "verify"])
def test_rows_that_contradict_each_other_for_a_moment_stop_nothing(
    database: DatabaseFactory, phase: str
) -> None:
    """A client changes the parent in one transaction and the child in the next."""
    target = database("empty")
    create(target, TENANTS + LABELS)

    def contradict() -> None:
        create(target, MOVE.encode())
        threading.Timer(0.7, create, (target, FOLLOW.encode())).start()

    engine, _ = saying(change(target, WITH_LABELS), f"{phase} ", contradict)
    engine.run()
    with connect(target) as session:
        found = session.rows("SELECT region, count(*) FROM app.labels WHERE slug = 'p1' GROUP BY 1")
    assert [tuple(row.values()) for row in found] == [("moved", 5)]


def test_rows_that_go_on_contradicting_each_other_stop_it_and_are_named(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = database("empty")
    create(target, TENANTS + LABELS)
    monkeypatch.setattr("mandate.rekey.catch_up.CATCH_UP_SECONDS", 1.0)
    engine, _ = saying(change(target, WITH_LABELS), "copy ", lambda: create(target, MOVE.encode()))
    with pytest.raises(CheckFailed, match="region is not that of the row"):
        engine.run()
    create(target, FOLLOW.encode())
    engine.run()
    engine.finalize()
