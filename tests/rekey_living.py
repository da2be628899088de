"""Writers that live through swaps: each transaction speaks the version that it finds."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.rekey_client import Writer
from tests.rekey_writers import WRITERS
from tests.rekeying import COMPOSITE, INTEGERS, NAMES, Example

from mandate.postgres.connection import Session, Target, connect, sql

# A parent's table, its old key, and the query for a writer's parents by old key where that is not kept.
_PARENTS: Mapping[str, tuple[str, str, bytes]] = {
    INTEGERS.name: ("customers", "id", b""),
    NAMES.name: (
        "scopes",
        "scope_id",
        b"SELECT scope_id AS key, name FROM scopes WHERE starts_with(name, %s)",
    ),
    COMPOSITE.name: (
        "domains",
        "domain_id",
        b"SELECT domain_id AS key, name::text FROM domains WHERE starts_with(name, %s)",
    ),
}
_OLD_TYPES = {INTEGERS.name: "integer", NAMES.name: "uuid", COMPOSITE.name: "uuid"}


@dataclass
class Living:
    """One client: what it has committed, and how it writes to the old and to the new tables."""

    example: Example
    number: int
    random: random.Random
    session: Session
    versions: tuple[Writer, Writer]
    parents: dict[Any, str] = field(default_factory=dict)
    rows: dict[int, tuple[Any, str]] = field(default_factory=dict)
    next_row: int = 0

    def step(self) -> None:
        """One transaction; nothing of it counts when it changes its mind."""
        try:
            with self.session.transaction():
                speaker = self._speaker()
                for _ in range(self.random.randint(1, 3)):
                    self.random.choice(speaker.operations())()
                if self.random.random() < 0.15:
                    raise _ChangedMind
        except _ChangedMind:
            return
        self.parents, self.rows, self.next_row = speaker.parents, speaker.rows, speaker.next_row

    def _speaker(self) -> Writer:
        """The writer for the tables as they are until this transaction ends."""
        parent, column, query = _PARENTS[self.example.name]
        if query:
            # The name is looked up again once the lock is there; whoever swaps wants it for himself.
            self.session.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.Identifier(parent)))
        old = self.session.value(_IS_OLD, (f"public.{parent}", column, _OLD_TYPES[self.example.name]))
        speaker = self.versions[0 if old else 1]
        speaker.parents, speaker.rows, speaker.next_row = dict(self.parents), dict(self.rows), self.next_row
        if old and query:
            self._find_keys(speaker, query)
        return speaker

    def _find_keys(self, speaker: Writer, query: bytes) -> None:
        """A parent that was born in the new tables has some other key in the old ones."""
        keys = {row["name"]: row["key"] for row in self.session.rows(query, (f"w{self.number}-",))}
        assert sorted(keys) == sorted(self.parents.values()), (self.number, keys, self.parents)
        speaker.parents = {keys[name]: name for name in self.parents.values()}
        speaker.rows = {
            key: (keys[self.parents[parent]] if parent in self.parents else None, said)
            for key, (parent, said) in self.rows.items()
        }

    def tally(self) -> list[tuple[int, str | None, str]]:
        """As Writer.tally."""
        writer = self.versions[0]
        writer.parents, writer.rows = self.parents, self.rows
        return writer.tally()


_IS_OLD = (
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass AND attname = %s"
    " AND NOT attisdropped AND atttypid = %s::regtype)"
)


class _ChangedMind(Exception):
    """The client rolls back."""


def client(target: Target, example: Example, seed: int, number: int) -> Living:
    """One with its first rows."""
    session = connect(target, settings={"search_path": "public"}, application_name=f"living-{number}")
    # A statement prepared for int fails once when its column is bigint: PostgreSQL's own rule.
    session.connection.prepare_threshold = None
    rng = random.Random(f"{seed} {number}")
    old, new = (
        WRITERS[example.name, is_new](number, rng, session, new=is_new, truncates=number == 1)
        for is_new in (False, True)
    )
    made = Living(example, number, rng, session, (old, new))
    for _ in range(60):
        made.step()
    return made


@contextmanager
def living(clients: list[Living]) -> Iterator[None]:
    """They write until the block ends; raises what any of them raised."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def work(each: Living) -> None:
        try:
            while not stop.wait(each.random.random() * 0.004):
                each.step()
        except Exception as error:  # noqa: BLE001 - whatever a thread dies of, the test fails with it
            failed.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
