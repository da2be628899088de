"""Random schedules through the whole engine: there, back, there again, to the end; clients keep a tally."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
from tests import rekey_living, rekeying
from tests.rekey_living import Living
from tests.rekey_meaning import meaning
from tests.rekeying import EXAMPLES, Example
from tests.servers import DatabaseFactory
from tests.shops import change, create, schemas_left

from mandate.postgres.connection import Session, Target
from mandate.progress import Silent
from mandate.rekey.engine import Engine

pytestmark = pytest.mark.slow

WRITERS = 3
# More of them take longer and see more: MANDATE_TEST_SCHEDULES=1-200.
_FIRST, _, _END = os.environ.get("MANDATE_TEST_SCHEDULES", "0-1").partition("-")
SCHEDULES = range(int(_FIRST), int(_END))


class _Killed(Exception):
    """Stands for a conductor that ends between two phases."""


@dataclass
class Chance:
    """A reporter that waits for a while after each phase, or ends the conductor."""

    random: random.Random
    task = Silent().task

    def line(self, text: str) -> None:
        time.sleep(self.random.random() * 0.1)
        if not text.startswith("cutover") and self.random.random() < 0.08:
            raise _Killed(text)


@dataclass
class Schedule:
    """One database, its clients and the engine; `new`: which version its tables are."""

    target: Target
    example: Example
    random: random.Random
    clients: list[Living]
    session: Session
    new: bool = False

    @property
    def engine(self) -> Engine:
        return change(self.target, self.example.spec, Chance(self.random))

    def end(self, command: Callable[[Engine], object], *, new: bool) -> None:
        """Take it to its end, however often it is killed; with clients at work, or seldom without.

        Without, what the rows mean is the same before and after.
        """
        quiet = self.random.random() < 0.25
        before = self.meaning() if quiet else None
        with nullcontext() if quiet else rekey_living.living(self.clients):
            self.until_done(command)
        self.new = new
        if quiet:
            assert self.meaning() == before
        self.check()

    def until_done(self, command: Callable[[Engine], object]) -> None:
        while True:
            try:
                command(self.engine)
            except _Killed:
                continue
            return

    def check(self) -> None:
        counted = sorted(tuple(map(str, row)) for each in self.clients for row in each.tally())
        assert self.meaning()[0] == counted
        assert counted

    def meaning(self) -> list[list[tuple[str, ...]]]:
        return meaning(self.session, self.example, "public", new=self.new)

    def give_up(self) -> None:
        """A run that is killed for good, and aborted."""
        with rekey_living.living(self.clients):
            try:
                self.engine.run()
            except _Killed:
                self.until_done(Engine.abort)
            else:
                self.until_done(Engine.rollback)
        self.check()
        assert schemas_left(self.session) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
@pytest.mark.parametrize("seed", SCHEDULES)
def test_there_and_back_and_to_the_end_the_database_holds_what_clients_count(
    database: DatabaseFactory, example: Example, seed: int
) -> None:
    target = database("empty")
    create(target, example.ddl)
    clients = [rekey_living.client(target, example, seed, number) for number in range(1, WRITERS + 1)]
    with rekeying.engine(target) as session:
        session.connection.prepare_threshold = None
        schedule = Schedule(target, example, random.Random(seed), clients, session)
        schedule.check()
        if schedule.random.random() < 0.3:
            schedule.give_up()
        schedule.end(Engine.run, new=True)
        with rekey_living.living(clients):
            time.sleep(schedule.random.random() * 0.3)
        schedule.end(Engine.rollback, new=False)
        schedule.end(Engine.run, new=True)
        schedule.end(Engine.finalize, new=True)
        with rekey_living.living(clients):
            time.sleep(0.1)
        schedule.check()
        assert schemas_left(session) == []
    for each in clients:
        each.session.close()
