"""A parent with very many children gets another natural key: one row is written, all the others follow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
from tests.rekeying import NAMES
from tests.servers import DatabaseFactory
from tests.shops import change, create, schemas_left
from tests.stepping import Lines

from mandate.postgres.connection import Session, Target, connect
from mandate.rekey.cutover import Options
from mandate.rekey.engine import Engine

pytestmark = pytest.mark.slow

DEADLINE = 0.5
CHILDREN = 50_000
ROWS = b"""
INSERT INTO scopes SELECT md5('s' || i)::uuid, 'name ' || i, 'note' FROM generate_series(1, 5) i;
INSERT INTO events (scope_id, said) SELECT md5('s1')::uuid, 'said ' || i FROM generate_series(1, 50000) i;
INSERT INTO events (scope_id, said) SELECT md5('s2')::uuid, 'other ' || i FROM generate_series(1, 50) i;
INSERT INTO grants SELECT md5('s1')::uuid, 'who ' || i FROM generate_series(1, 500) i;
"""


@pytest.fixture
def target(database: DatabaseFactory) -> Target:
    made = database("empty")
    create(made, NAMES.ddl)
    create(made, ROWS)
    return made


class Renaming(Lines):
    """Renames the parent at each line that starts with one of `words`: the old tables know it by its uuid."""

    def __init__(self, target: Target, words: tuple[str, ...]) -> None:
        super().__init__()
        self._target, self._words = target, words
        self.renamed = 0

    def line(self, text: str) -> None:
        super().line(text)
        if text.startswith(self._words):
            self.renamed += 1
            with connect(self._target, settings={"search_path": "public"}) as session:
                session.execute(
                    "UPDATE scopes SET name = %s WHERE scope_id = md5('s1')::uuid",
                    (f"renamed {self.renamed}",),
                )


@dataclass
class Client:
    """Writes what has the same name in both versions, and how long it waited at most."""

    longest: float = 0.0

    def work(self, target: Target, stop: threading.Event) -> None:
        with connect(target, settings={"search_path": "public"}) as session:
            session.connection.prepare_threshold = None
            while not stop.wait(0.005):
                began = time.monotonic()
                session.execute("UPDATE events SET said = 'x' WHERE id = 50001 + (random() * 40)::int")
                session.execute("UPDATE scopes SET note = 'y' WHERE name = 'name 3'")
                self.longest = max(self.longest, time.monotonic() - began)


@contextmanager
def writing(target: Target) -> Iterator[Client]:
    client, stop = Client(), threading.Event()
    thread = threading.Thread(target=client.work, args=(target, stop))
    thread.start()
    try:
        yield client
    finally:
        stop.set()
        thread.join()


def engine_of(target: Target, reporter: Lines) -> Engine:
    made = change(target, NAMES.spec, reporter)
    swap = Options(deadline_seconds=DEADLINE, attempts=20)
    return replace(made, options=replace(made.options, swap=swap))


def test_a_parent_of_very_many_is_renamed_just_before_each_swap(target: Target) -> None:
    """What follows from it is not done while clients wait."""
    reporter = Renaming(target, ("copy ", "verify "))
    with writing(target) as client:
        figures = engine_of(target, reporter).run()
        with connect(target, settings={"search_path": "public"}) as session:
            move(session, "scope.renamed 2", "scope.at last", "at last")
        back = engine_of(target, Lines()).rollback()
    assert reporter.renamed == 2
    assert figures["cutover"]["attempts"] <= 3, figures["cutover"]["blockers"]
    assert back["attempts"] <= 3, back["blockers"]
    assert client.longest <= 2 * DEADLINE
    with connect(target, settings={"search_path": "public"}) as session:
        counted = "SELECT s.name, count(*) FROM events JOIN scopes s USING (scope_id) GROUP BY 1 ORDER BY 2"
        rows = session.rows(counted.encode())
        assert [tuple(row.values()) for row in rows] == [("name 2", 50), ("at last", CHILDREN)]
        counted = "SELECT count(*) FROM grants JOIN scopes s USING (scope_id) WHERE s.name = 'at last'"
        assert session.value(counted.encode()) == 500
        assert schemas_left(session) == []


def move(session: Session, before: str, after: str, name: str) -> None:
    """In the new tables a parent is renamed with its children, in one transaction."""
    with session.transaction():
        session.execute("INSERT INTO scopes VALUES (%s, %s, 'moved')", (after, name))
        session.execute("UPDATE events SET scope_id = %s WHERE scope_id = %s", (after, before))
        session.execute("UPDATE grants SET scope_id = %s WHERE scope_id = %s", (after, before))
        session.execute("DELETE FROM scopes WHERE scope_id = %s", (before,))
