"""The connection of a swap breaks at its COMMIT: what became of it is asked, never guessed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
from tests.cable import Cable, Cut, cable
from tests.rekey_process import start
from tests.servers import DatabaseFactory
from tests.shops import SHOP, TO_BIGINT, ShopWriter, change, create, schemas_left, writing

from mandate.errors import OutcomeUnknown
from mandate.postgres.connection import Session, Target, connect
from mandate.progress import Silent
from mandate.rekey import journal
from mandate.rekey.cutover import Options
from mandate.rekey.engine import Engine

pytestmark = pytest.mark.slow


@pytest.fixture
def target(database: DatabaseFactory) -> Target:
    made = database("empty")
    create(made, SHOP)
    return made


@pytest.fixture
def wire(target: Target) -> Iterator[Cable]:
    with cable(target) as made:
        yield made


def engine_of(target: Target, wire: Cable, *, outcome_seconds: float = 30) -> Engine:
    """One whose every connection is through the cable."""
    made = change(wire.target(target), TO_BIGINT)
    swap = Options(outcome_seconds=outcome_seconds)
    return replace(made, options=replace(made.options, swap=swap))


def status(target: Target) -> str:
    with connect(target) as session:
        found = journal.load(session, "shop")
    assert found is not None
    return found.status


def type_of_id(session: Session) -> str:
    found: str = session.value(
        "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attname = 'id'"
        " AND attrelid = 'shop.orders'::regclass"
    )
    return found


def check(target: Target, writers: list[ShopWriter], type_: str) -> None:
    """The tables have that key, no client failed and nothing of theirs is lost."""
    with connect(target) as session:
        assert type_of_id(session) == type_
        for writer in writers:
            assert writer.failures == []
            writer.check(session)


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
def test_a_cut_at_the_commit_of_a_swap_and_of_a_rollback_does_not_stop_it(
    target: Target, wire: Cable, cut: Cut
) -> None:
    engine = engine_of(target, wire)
    with writing(target, pause_seconds=0.002) as writers:
        wire.arm(cut)
        figures = engine.run()
        assert wire.happened.is_set()
        lost = [why for why in figures["cutover"]["blockers"] if "connection was lost" in why]
        assert len(lost) == (1 if cut is Cut.BEFORE else 0)
        assert status(target) == "swapped"
        wire.arm(cut)
        engine.rollback()
        assert wire.happened.is_set()
    check(target, writers, "integer")
    with connect(target) as session:
        assert schemas_left(session) == []


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
def test_a_server_that_is_gone_after_the_cut_leaves_the_question_open_until_it_is_back(
    target: Target, wire: Cable, cut: Cut
) -> None:
    engine = engine_of(target, wire, outcome_seconds=0.5)
    with writing(target, pause_seconds=0.002) as writers:
        wire.arm(cut, alone=False)
        with pytest.raises(OutcomeUnknown, match="while the cutover committed") as unknown:
            engine.run()
        assert unknown.value.exit_code == 9
        wire.mended.set()
        swap = engine.run()["cutover"]
        assert swap == {"resumed": "after the swap"} if cut is Cut.AFTER else swap["attempts"] == 1
        assert status(target) == "swapped"

        wire.arm(cut, alone=False)
        with pytest.raises(OutcomeUnknown):
            engine.rollback()
        wire.mended.set()
        figures = engine.rollback()
        assert figures == {} if cut is Cut.AFTER else figures["attempts"] == 1
        assert status(target) == "rolled back"
    check(target, writers, "integer")
    with connect(target) as session:
        assert schemas_left(session) == []


def test_a_commit_that_nobody_hears_of_any_more_does_not_keep_clients_out(
    target: Target, wire: Cable
) -> None:
    """The network stands still with all tables locked: the server ends the session by itself."""
    engine = engine_of(target, wire)
    deadline = engine.options.swap.deadline_seconds
    with (
        writing(target, pause_seconds=0.002) as writers,
        ThreadPoolExecutor(1) as pool,
        connect(target) as client,
    ):
        wire.arm(Cut.STALLED)
        running = pool.submit(engine.run)
        assert wire.happened.wait(60)
        began = time.monotonic()
        client.execute("UPDATE shop.orders SET total = total WHERE id = 1")
        waited = time.monotonic() - began
        wire.mended.set()
        assert running.result()["cutover"]["attempts"] == 2
    assert waited <= 2 * deadline
    check(target, writers, "bigint")


@pytest.mark.parametrize("when", ["before the next run", "once the next run has begun"])
def test_a_commit_of_a_dead_conductor_that_arrives_late_does_no_harm(
    target: Target, wire: Cable, when: str
) -> None:
    """Either the swap is done by it, or it counts for nothing: never both it and the next run's."""
    with writing(target, pause_seconds=0.002) as writers:
        for command, ended in (("run", "swapped"), ("rollback", "rolled back")):
            die_at_commit(wire.target(target), wire, command)
            if when == "before the next run":
                wire.mended.set()
            go_on(target, wire, command, ended)
            assert status(target) == ended
    check(target, writers, "integer")
    with connect(target) as session:
        assert schemas_left(session) == []


def die_at_commit(target: Target, wire: Cable, command: str) -> None:
    """Its COMMIT is under way when the process is killed."""
    wire.arm(Cut.LATER)
    process = start(target, command)
    assert wire.happened.wait(60)
    process.kill()
    process.communicate()


def go_on(target: Target, wire: Cable, command: str, ended: str) -> None:
    """The next run, by another way; what was held up is let through as soon as it says something."""
    getattr(change(target, TO_BIGINT, Mending(wire)), command)()
    assert status(target) == ended
    wire.mended.set()


@dataclass
class Mending:
    """A reporter that lets through what the cable holds up, at the first line."""

    wire: Cable
    task = Silent().task

    def line(self, text: str) -> None:
        self.wire.mended.set()
