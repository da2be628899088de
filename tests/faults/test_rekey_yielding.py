"""Clients that need a whole table for themselves while the engine reads it, and all who queue behind them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from tests.servers import DatabaseFactory
from tests.shops import SHOP, TO_BIGINT, change, create
from tests.stepping import Lines

from mandate.errors import DatabaseError, MigrationFailed
from mandate.postgres.connection import Session, Target, connect
from mandate.rekey import yielding
from mandate.rekey.cutover import Options
from mandate.rekey.engine import Engine

pytestmark = pytest.mark.slow

DEADLINE = 0.5
# Enough for some tenths of a second of reading.
MANY = b"""
INSERT INTO shop.returns (order_id, line, reason)
SELECT order_id, line, 'reason ' || i FROM shop.lines, generate_series(1, 60) i;
"""
# As strong as a lock gets, and changes nothing.
ALTER = "ALTER TABLE shop.returns ALTER reason DROP NOT NULL"
READER = (
    "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    " WHERE l.granted AND l.mode = 'AccessShareLock' AND l.relation = 'shop.returns'::regclass"
    " AND a.application_name = 'mandate-rekey-shop' AND clock_timestamp() - a.xact_start > '30 ms'"
)

# Nor is it about to be done, as a batch of catch-up, which writes, may be.
PROVER = f"{READER} AND a.backend_xid IS NULL"


@dataclass
class Client:
    """How long each of its statements took, and what failed."""

    waits: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def do(self, session: Session, statement: str) -> None:
        began = time.monotonic()
        try:
            session.execute(statement.encode())
        except DatabaseError as error:
            self.failures.append(f"{error.sqlstate}: {error}")
        self.waits.append(time.monotonic() - began)


@dataclass
class Strong(Client):
    """Whenever the engine has read the table for a while: `statements`, one each time."""

    statements: list[str] = field(default_factory=list)
    reader: str = READER
    may: threading.Event = field(default_factory=threading.Event)

    def work(self, target: Target, stop: threading.Event) -> None:
        with connect(target, application_name="strong") as session, connect(target) as looking:
            while not stop.wait(0.02):
                if self.may.is_set() and self.statements and looking.value(self.reader):
                    self.do(session, self.statements.pop(0))


@dataclass
class Plain(Client):
    """Writes and reads the table all the time; `notes` is what it wrote by id."""

    number: int = 0
    notes: dict[int, str] = field(default_factory=dict)

    def work(self, target: Target, stop: threading.Event) -> None:
        with connect(target, application_name="plain") as session:
            session.connection.prepare_threshold = None
            while not stop.wait(0.01):
                key = 1 + (len(self.waits) * 7 + self.number) % 250 * 2 + self.number
                self.do(session, f"UPDATE shop.returns SET reason = '{len(self.waits)}' WHERE id = {key}")
                self.notes[key] = str(len(self.waits) - 1)


@contextmanager
def working(target: Target, clients: list[Strong | Plain]) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=each.work, args=(target, stop)) for each in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are noticed sooner than the reading of these tables takes."""
    monkeypatch.setattr(yielding, "_PATIENCE_MILLISECONDS", 10)
    monkeypatch.setattr(yielding, "_POLL_SECONDS", 0.01)


@pytest.fixture
def target(database: DatabaseFactory) -> Target:
    made = database("empty")
    create(made, SHOP)
    create(made, MANY)
    return made


class Said(Lines):
    """What is said; lets a client begin once a line starts with `word`."""

    def __init__(self, word: str, strong: Strong) -> None:
        super().__init__()
        self._word, self._strong = word, strong

    def line(self, text: str) -> None:
        super().line(text)
        if text.startswith(self._word):
            self._strong.may.set()

    @property
    def gave_way(self) -> list[str]:
        return [line for line in self.lines if line.startswith("gives way to")]


def engine_of(target: Target, said: Said) -> Engine:
    made = change(target, TO_BIGINT, said)
    return replace(made, options=replace(made.options, swap=Options(deadline_seconds=DEADLINE)))


@pytest.mark.usefixtures("soon")
def test_a_client_that_alters_a_table_that_is_read_keeps_nobody_waiting(target: Target) -> None:
    strong, plain = Strong(statements=[ALTER] * 6), [Plain(number=number) for number in (0, 1)]
    strong.may.set()
    said = Said("nothing", strong)
    engine = engine_of(target, said)
    with working(target, [strong, *plain]):
        figures = engine.run()
        strong.statements += [ALTER] * 2
        engine.rollback()
    assert [each.failures for each in (strong, *plain)] == [[], [], []]
    assert max(max(each.waits) for each in (strong, *plain)) <= 2 * DEADLINE
    assert said.gave_way
    for line in said.gave_way:
        assert "(postgres, strong), which waits for AccessExclusiveLock on shop.returns" in line
    verified = {table["table"]: table["rows"] for table in figures["verify"]["tables"]}
    assert verified["shop.returns"] > 350_000
    with connect(target) as session:
        rows = session.rows("SELECT id, reason FROM shop.returns WHERE id <= 501")
    found = {row["id"]: row["reason"] for row in rows}
    for each in plain:
        assert each.notes.items() <= found.items()


@pytest.mark.usefixtures("soon")
def test_a_table_that_is_truncated_while_it_is_verified_is_empty_after_the_swap(target: Target) -> None:
    strong, plain = Strong(statements=["TRUNCATE shop.returns"], reader=PROVER), Plain()
    said = Said("foreign keys ", strong)
    with working(target, [strong, plain]):
        engine_of(target, said).run()
    assert [each.failures for each in (strong, plain)] == [[], []]
    assert strong.statements == []
    assert max(strong.waits + plain.waits) <= 2 * DEADLINE
    assert said.gave_way
    with connect(target) as session:
        assert session.value("SELECT count(*) FROM shop.returns") == 0
        assert session.value("SELECT count(*) FROM mandate_pre_shop.returns") == 0


def test_work_that_somebody_else_cancels_is_not_done_again(target: Target) -> None:
    with (
        connect(target) as session,
        connect(target) as other,
        yielding.watching(lambda: connect(target)) as watch,
    ):

        def work() -> None:
            timer.start()
            session.execute("SELECT pg_sleep(60)")

        timer = threading.Timer(0.2, lambda: other.execute("SELECT pg_cancel_backend(%s)", (session.pid,)))
        with pytest.raises(DatabaseError, match="canceling statement"):
            watch.retried([session], work)
        timer.join()


def test_who_never_lets_it_work_is_named_in_the_end(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yielding, "_TRIES", 2)
    strong = Strong(statements=[ALTER] * 5)
    strong.may.set()

    def read() -> None:
        with reader.transaction():
            reader.execute("SELECT count(*) FROM shop.returns")
            reader.execute("SELECT pg_sleep(60)")

    with (
        working(target, [strong]),
        connect(target, application_name="mandate-rekey-shop") as reader,
        yielding.watching(lambda: connect(target)) as watch,
        pytest.raises(MigrationFailed, match=r"again and again: at last pid \d+ \(postgres, strong\)"),
    ):
        watch.retried([reader], read)
    assert max(strong.waits) <= DEADLINE
