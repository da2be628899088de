"""Locks that others hold, and how long clients have to wait because of the engine: measured by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from tests.servers import DatabaseFactory
from tests.shops import SHOP, TO_BIGINT, change, create

from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, Target, connect
from mandate.progress import Silent
from mandate.rekey.cutover import Options
from mandate.rekey.engine import Engine

pytestmark = pytest.mark.slow

DEADLINE = 0.5


@pytest.fixture
def target(database: DatabaseFactory) -> Target:
    made = database("empty")
    create(made, SHOP)
    return made


@dataclass
class Waiting:
    """The longest that one client had to wait for a statement, and what failed."""

    longest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def work(self, target: Target, stop: threading.Event, one: Callable[[Session], None]) -> None:
        with connect(target, application_name="client") as session:
            session.connection.prepare_threshold = None
            while not stop.is_set():
                began = time.monotonic()
                try:
                    one(session)
                except DatabaseError as error:
                    self.failures.append(f"{error.sqlstate}: {error}")
                self.longest = max(self.longest, time.monotonic() - began)
                stop.wait(0.005)


def plain(session: Session) -> None:
    """Child before parent, a number before the table: the order that deadlocks are made of."""
    with session.transaction():
        session.execute("SELECT nextval('shop.customers_id_seq')")
        session.execute("UPDATE shop.lines SET item = item WHERE order_id = 3")
        session.execute("UPDATE shop.customers SET note = 'x' WHERE id = 7")
        session.execute("INSERT INTO shop.orders (customer_id, total) VALUES (9, 1)")


@contextmanager
def clients(
    target: Target, count: int = 3, one: Callable[[Session], None] = plain
) -> Iterator[list[Waiting]]:
    """Clients that write all the time, until the block ends."""
    stop = threading.Event()
    found = [Waiting() for _ in range(count)]
    threads = [threading.Thread(target=each.work, args=(target, stop, one)) for each in found]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@dataclass
class Ending:
    """Ends what is in the way after some attempts of the cutover."""

    end: Callable[[], None]
    attempts: int = 3
    said: list[str] = field(default_factory=list)
    task = Silent().task

    def line(self, text: str) -> None:
        self.said.append(text)
        if text.startswith(f"cutover attempt {self.attempts}"):
            self.end()

    @property
    def named(self) -> list[str]:
        return [line for line in self.said if line.startswith("cutover attempt")]


def engine_of(target: Target, reporter: Ending) -> Engine:
    made = change(target, TO_BIGINT)
    return replace(
        made, reporter=reporter, options=replace(made.options, swap=Options(deadline_seconds=DEADLINE))
    )


@pytest.mark.parametrize(
    ("statement", "relation"),
    [
        ("SELECT count(*) FROM shop.orders", "shop.orders"),
        ("LOCK TABLE shop.returns IN SHARE UPDATE EXCLUSIVE MODE", "shop.returns"),
        ("SELECT last_value FROM shop.customers_id_seq", "shop.customers_id_seq"),
    ],
)
def test_a_forgotten_lock_is_named_and_keeps_no_client_waiting(
    target: Target, statement: str, relation: str
) -> None:
    with connect(target, application_name="forgotten") as forgotten:
        ending = Ending(lambda: forgotten.connection.rollback())
        reporter = Holding("verify", lambda: hold(forgotten, statement), ending)
        with clients(target) as found:
            replace(engine_of(target, ending), reporter=reporter).run()
        assert len(ending.named) >= 3
        for line in ending.named[:3]:
            assert f"pid {forgotten.pid} (postgres, forgotten) on {relation}" in line
            assert "transaction of" in line
    assert [each.failures for each in found] == [[], [], []]
    assert max(each.longest for each in found) <= 2 * DEADLINE


def hold(session: Session, statement: str) -> None:
    session.execute("BEGIN")
    session.execute(statement.encode())


@dataclass
class Holding:
    """Takes the lock once a phase is over, then lets `ending` listen."""

    phase: str
    take: Callable[[], None]
    ending: Ending
    task = Silent().task

    def line(self, text: str) -> None:
        if text.startswith(f"{self.phase} "):
            self.take()
        self.ending.line(text)


def test_a_prepared_transaction_in_the_way_is_named(target: Target) -> None:
    with connect(target) as forgotten:
        ending = Ending(lambda: rollback_prepared(forgotten))

        def prepare() -> None:
            hold(forgotten, "SELECT count(*) FROM shop.lines")
            forgotten.execute("PREPARE TRANSACTION 'left behind'")

        engine = engine_of(target, ending)
        replace(engine, reporter=Holding("verify", prepare, ending)).run()
    assert any("prepared transaction left behind of postgres on shop.lines" in line for line in ending.named)


def rollback_prepared(session: Session) -> None:
    session.execute("ROLLBACK PREPARED 'left behind'")


def test_no_client_waits_beyond_the_deadline_from_the_first_phase_to_the_last(target: Target) -> None:
    """The engine, not a client, loses every deadlock; compared with the same clients left alone."""
    with clients(target) as control:
        threading.Event().wait(1)
    engine = engine_of(target, Ending(lambda: None))
    with clients(target) as found:
        engine.run()
        engine.rollback()
        engine.run()
        engine.finalize()
    assert [each.failures for each in found] == [[], [], []]
    usual = max(each.longest for each in control)
    assert max(each.longest for each in found) <= 2 * DEADLINE + usual


def test_a_table_that_is_truncated_while_its_rows_are_read_waits_no_longer(target: Target) -> None:
    """Nothing that reads keeps a TRUNCATE, and all who queue behind it, waiting beyond the deadline."""

    def truncating(session: Session) -> None:
        session.execute("TRUNCATE shop.returns")
        session.execute(
            "INSERT INTO shop.returns (order_id, line) SELECT order_id, line FROM shop.lines LIMIT 9"
        )

    engine = engine_of(target, Ending(lambda: None))
    with clients(target, 1, truncating) as found, clients(target, 2) as others:
        engine.run()
        engine.finalize()
    assert [each.failures for each in found + others] == [[], [], []]
    assert max(each.longest for each in found + others) <= 2 * DEADLINE


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_would_read_old_rows_after_the_swap_is_waited_for_and_named(
    target: Target, level: str
) -> None:
    """It has touched no table of the change yet, so that no lock is in the way."""
    with connect(target, application_name="report") as report, connect(target) as writer:

        def begin() -> None:
            writer.execute("UPDATE shop.orders SET total = 7777 WHERE id = 5")
            report.execute(b"BEGIN ISOLATION LEVEL " + level.encode())
            report.execute("SELECT count(*) FROM shop.untouched")

        def read() -> None:
            found.append(report.value("SELECT total FROM shop.orders WHERE id = 5"))
            report.connection.rollback()

        found: list[object] = []
        pid = report.pid
        ending = Ending(read, attempts=2)
        engine = replace(engine_of(target, ending), reporter=Holding("verify", begin, ending))
        engine.run()
    assert found == [7777]
    for line in ending.named[:2]:
        assert f"a snapshot of before the swap is held by pid {pid} (postgres, report)" in line
