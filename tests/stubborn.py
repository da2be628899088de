"""A writer whose server is stopped under it: it connects again, and reads back what it was not told."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mandate.errors import DatabaseError, DatabaseUnavailable
from mandate.postgres.connection import Session, Target, connect

# Lost with the connection; anything else is a failure of the client's statement.
_GONE = ("57P01", "57P02", "57P03", None)


@dataclass
class StubbornWriter:
    """Customers of its own: name -> note. Each has a name of its own, so that it can be asked after."""

    target: Target
    number: int
    customers: dict[str, str | None] = field(default_factory=dict)
    acknowledged: int = 0
    unknown: int = 0
    failures: list[str] = field(default_factory=list)

    def work(self, stop: threading.Event) -> None:
        """Write until told to stop."""
        choose = random.Random(self.number)
        while not stop.is_set():
            try:
                with self._session() as session:
                    while not stop.is_set():
                        self._one(session, choose)
                        stop.wait(0.002)
            except DatabaseUnavailable:
                stop.wait(0.05)
            except DatabaseError as error:
                self.failures.append(str(error))

    def _session(self) -> Session:
        session = connect(
            self.target,
            application_name=f"stubborn-{self.number}",
            settings={"synchronous_commit": "on", "search_path": ""},
        )
        session.connection.prepare_threshold = None
        return session

    def _one(self, session: Session, choose: random.Random) -> None:
        action = choose.choice(("add", "note", "note", "drop"))
        if action == "add" or not self.customers:
            name = f"s{self.number}-{self.acknowledged}-{choose.random()}"
            self._do(session, name, b"INSERT INTO shop.customers (name) VALUES (%(name)s)", None, there=True)
        elif action == "note":
            name = choose.choice(list(self.customers))
            change = b"UPDATE shop.customers SET note = %(note)s WHERE name = %(name)s"
            self._do(session, name, change, str(choose.random()), there=True)
        else:
            name = choose.choice(list(self.customers))
            self._do(session, name, b"DELETE FROM shop.customers WHERE name = %(name)s", None, there=False)

    def _do(self, session: Session, name: str, query: bytes, note: str | None, *, there: bool) -> None:
        """One statement, and what is known of it: done, or, when the answer never came, what is read back."""
        try:
            count = session.execute(query, {"name": name, "note": note})
        except DatabaseError as error:
            if error.sqlstate not in _GONE:
                raise
            self._read_back(name, (there, note))
            raise DatabaseUnavailable("the server went away") from error
        assert count == 1, f"{name}: {count} rows"
        self.acknowledged += 1
        self._remember(name, there, note)

    def _remember(self, name: str, there: bool, note: str | None) -> None:
        self.customers.pop(name, None)
        if there:
            self.customers[name] = note

    def _read_back(self, name: str, after: tuple[bool, str | None]) -> None:
        """Either as it was or as it was to be."""
        self.unknown += 1
        before = (name in self.customers, self.customers.get(name))
        tick = threading.Event()
        while True:
            try:
                with self._session() as session:
                    row = session.row("SELECT note FROM shop.customers WHERE name = %s", (name,))
                break
            except DatabaseError as error:
                if error.sqlstate not in _GONE:
                    raise
                tick.wait(0.05)
        found = (row is not None, row["note"] if row else None)
        if found not in (before, after):
            self.failures.append(f"{name}: {found} is neither {before} nor {after}")
        self._remember(name, *found)

    def check(self, session: Session) -> None:
        """The database holds what was acknowledged or read back, and nothing else of it."""
        assert self.failures == []
        rows = session.rows(
            "SELECT name, note FROM shop.customers WHERE starts_with(name, %s)", (f"s{self.number}-",)
        )
        assert {row["name"]: row["note"] for row in rows} == self.customers


@contextmanager
def stubborn(target: Target, count: int = 2) -> Iterator[list[StubbornWriter]]:
    """Writers at work for as long as the block runs."""
    writers = [StubbornWriter(target, number) for number in range(count)]
    stop = threading.Event()
    threads = [threading.Thread(target=writer.work, args=(stop,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
