"""Whatever the interleaving of clients with the phases: old and new hold the same rows, no write is lost."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest
from tests import rekey_client, rekey_meaning, rekey_writers, rekeying
from tests.rekeying import EXAMPLES, Example
from tests.servers import DatabaseFactory

from mandate.postgres.connection import Session, Target
from mandate.progress import Silent
from mandate.rekey import capture, catch_up, copying, maps, verify
from mandate.rekey.direction import BACK, FORWARD
from mandate.rekey.model import Graph

WRITERS = 3
# More of them take longer and see more: MANDATE_TEST_SCHEDULES=4-200.
_FIRST, _, _END = os.environ.get("MANDATE_TEST_SCHEDULES", "0-4").partition("-")
SCHEDULES = range(int(_FIRST), int(_END))


class _Killed(Exception):
    """Stands for a conductor that ends between two chunks."""


@pytest.mark.parametrize("seed", SCHEDULES)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_nothing_is_lost_whatever_the_interleaving(
    database: DatabaseFactory, example: Example, seed: int
) -> None:
    target = database("empty")
    rng = random.Random(seed)
    graph = rekeying.begin(target, example)
    with rekeying.engine(target) as session:
        with rekey_writers.writing(target, example, seed, WRITERS) as writers:
            _forward(target, session, graph, rng)
        _settle(session, graph)
        verify.run(rekeying.opener(target), graph, FORWARD, 2, Silent())
        shadow = rekey_meaning.meaning(session, example, graph.spec.shadow_schema, new=True)
        assert shadow == rekey_meaning.meaning(session, example, "public", new=False)
        assert shadow[0] == rekey_writers.tally(writers)
        assert shadow[0]
        _and_back(target, session, graph, example, rng, writers)


def _forward(target: Target, session: Session, graph: Graph, rng: random.Random) -> None:
    """Every phase, with pauses of any length between; each may be done twice."""
    steps: list[Callable[[], object]] = [
        lambda: maps.create(session, graph),
        lambda: maps.fill(session, graph),
        lambda: rekeying.shadows(session, graph),
        lambda: capture.install(session, graph, FORWARD),
        lambda: capture.wait_for_older(session),
        lambda: _copy(target, graph, rng),
        lambda: catch_up.forget_logged(session, graph),
        lambda: rekeying.keys(session, graph),
        lambda: _batches(session, graph, rng),
        lambda: catch_up.batch(session, graph, FORWARD, None),
    ]
    for number, step in enumerate(steps):
        step()
        if rng.random() < 0.3 and number < len(steps) - 1:
            step()
        time.sleep(rng.random() * 0.05)
    rekeying.foreign_keys(session, graph)
    _batches(session, graph, rng)
    verify.run(rekeying.opener(target), graph, FORWARD, 2, Silent())
    _batches(session, graph, rng)


def _copy(target: Target, graph: Graph, rng: random.Random) -> None:
    """Killed between chunks as often as chance has it, and resumed."""
    while True:

        def chance() -> None:
            time.sleep(rng.random() * 0.01)
            if rng.random() < 0.1:
                raise _Killed

        try:
            copying.run(rekeying.opener(target), graph, 2, Silent(), chance, target_seconds=0.001)
        except _Killed:
            continue
        return


def _batches(session: Session, graph: Graph, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 6)):
        catch_up.batch(session, graph, FORWARD, rng.choice([1, 5, 20, 1000]))
        time.sleep(rng.random() * 0.03)


def _settle(session: Session, graph: Graph) -> None:
    with session.transaction():
        catch_up.drain(session, graph, FORWARD)
    assert catch_up.backlog(session, graph, FORWARD) == 0


def _and_back(
    target: Target,
    session: Session,
    graph: Graph,
    example: Example,
    rng: random.Random,
    before: list[rekey_client.Writer],
) -> None:
    """The reverse window: clients write the new tables, the retained ones follow."""
    with session.transaction():
        capture.remove(session, graph, FORWARD)
        rekeying.swap(session, graph)
        capture.install_now(session, graph, BACK)
    with rekey_writers.writing(target, example, rng.random(), WRITERS, new=True, known=before) as writers:
        for _ in range(8):
            time.sleep(rng.random() * 0.06)
            catch_up.batch(session, graph, BACK, rng.choice([1, 5, 20, None]))
        verify.run(rekeying.opener(target), graph, BACK, 2, Silent())
    with session.transaction():
        catch_up.drain(session, graph, BACK)
    verify.run(rekeying.opener(target), graph, BACK, 2, Silent())
    retained = rekey_meaning.meaning(session, example, graph.spec.retained_schema, new=False)
    assert retained == rekey_meaning.meaning(session, example, "public", new=True)
    assert retained[0] == rekey_writers.tally(writers)
