"""Transactions that see what was there before a swap: told to begin again when they write, and waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from tests.servers import DatabaseFactory
from tests.serving import eventually
from tests.shops import SHOP, TO_BIGINT, change, create, schemas_left

from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, Target, connect
from mandate.progress import Silent

pytestmark = pytest.mark.slow

_BUSY = 4711
# What it is told, and that it may after all.
_AGAIN = ["40001", None]


def _copy(session: Session) -> None:
    with (
        session.connection.cursor() as cursor,
        cursor.copy("COPY shop.returns (order_id, line) FROM STDIN") as rows,
    ):
        rows.write_row((1, 1))


def _statement(text: str) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        session.execute(text.encode())

    return work


WRITES: dict[str, Callable[[Session], None]] = {
    "insert": _statement("INSERT INTO shop.orders (customer_id, total) VALUES (1, 1)"),
    "update": _statement("UPDATE shop.orders SET total = 1 WHERE id = -1"),
    "delete": _statement("DELETE FROM shop.returns WHERE id = -1"),
    "upsert": _statement(
        "INSERT INTO shop.lines VALUES (1, 1, 1, 'x') ON CONFLICT (order_id, line) DO NOTHING"
    ),
    "merge": _statement(
        "MERGE INTO shop.orders AS o USING (VALUES (-1)) AS n (id) ON o.id = n.id WHEN MATCHED THEN DELETE"
    ),
    "copy": _copy,
    "replica": _statement(
        "SET LOCAL session_replication_role = replica; DELETE FROM shop.customers WHERE id = -1"
    ),
}


@dataclass
class Client:
    """A transaction that is busy with something else and then writes; again if that was refused.

    `answers`: its SQLSTATE each time, None for none.
    """

    target: Target
    level: str
    write: Callable[[Session], None]
    answers: list[str | None] = field(default_factory=list)

    def work(self, number: int) -> None:
        with connect(self.target, application_name="report") as session:
            for _ in range(2):
                try:
                    self._once(session, number)
                except DatabaseError as error:
                    self.answers.append(error.sqlstate)
                else:
                    self.answers.append(None)
                    return

    def _once(self, session: Session, number: int) -> None:
        with session.transaction():
            session.execute(b"SET TRANSACTION ISOLATION LEVEL " + self.level.encode())
            session.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (_BUSY, number))
            self.write(session)


@contextmanager
def busy(target: Target, clients: list[Client], number: int = 0) -> Iterator[Callable[[], None]]:
    """All of them in a statement, their snapshots taken, until what is given is called, or at the end."""
    threads = [threading.Thread(target=client.work, args=(number,)) for client in clients]
    with connect(target) as session:
        session.execute("SELECT pg_advisory_lock(%s, %s)", (_BUSY, number))
        for thread in threads:
            thread.start()

        def end() -> None:
            session.execute("SELECT pg_advisory_unlock_all()")
            for thread in threads:
                thread.join()

        try:
            eventually(lambda: _waiting(session, number) == len(clients) or None)
            yield end
        finally:
            end()


def _waiting(session: Session, number: int) -> int:
    count: int = session.value(
        "SELECT count(*) FROM pg_locks"
        " WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (_BUSY, number),
    )
    return count


@dataclass
class Told:
    """Does something when it hears that somebody is waited for."""

    then: Callable[[], None]
    said: list[str] = field(default_factory=list)
    task = Silent().task

    def line(self, text: str) -> None:
        if text.startswith("waits until nobody has a snapshot of before the swap"):
            self.said.append(text)
            self.then()


@pytest.fixture
def target(database: DatabaseFactory) -> Target:
    made = database("empty")
    create(made, SHOP)
    return made


def clients_of(target: Target) -> list[Client]:
    levels = ["REPEATABLE READ", "SERIALIZABLE"]
    old = [Client(target, levels[at % 2], write) for at, write in enumerate(WRITES.values())]
    return [*old, Client(target, "READ COMMITTED", WRITES["update"])]


def test_who_has_a_snapshot_of_before_a_swap_may_not_write_and_is_waited_for(target: Target) -> None:
    engine = change(target, TO_BIGINT)
    expected = [_AGAIN] * len(WRITES) + [[None]]

    forth = clients_of(target)
    with busy(target, forth) as end:
        engine.run()
        end()
    assert [client.answers for client in forth] == expected

    back = clients_of(target)
    with busy(target, back) as end:
        told = Told(end)
        replace(engine, reporter=told).rollback()
    assert [client.answers for client in back] == expected
    assert len(told.said) == 1
    assert "(postgres, report), active, transaction of" in told.said[0]
    assert guards(target) == 0


def test_the_end_waits_for_who_began_before_the_swap_and_for_nobody_else(target: Target) -> None:
    engine = change(target, TO_BIGINT)
    before, after = (Client(target, "REPEATABLE READ", WRITES["update"]) for _ in range(2))
    with busy(target, [before]) as end_before:
        engine.run()
        assert guards(target) == 4
        with busy(target, [after], number=1) as end_after:
            told = Told(end_before)
            replace(engine, reporter=told).finalize()
            end_after()
    assert len(told.said) == 1
    assert told.said[0].count("pid ") == 1
    assert (before.answers, after.answers) == (_AGAIN, [None])
    assert guards(target) == 0
    with connect(target) as session:
        assert schemas_left(session) == []


def guards(target: Target) -> int:
    with connect(target) as session:
        count: int = session.value(
            "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zzzz_mandate%snapshot'"
        )
    return count
