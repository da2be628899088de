"""Clients of each example, before and after its change; and all of them at work."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from tests.rekey_client import PARENTS, Writer
from tests.rekeying import COMPOSITE, INTEGERS, NAMES, Example

from mandate.postgres.connection import Target, connect, sql


class IntegersWriter(Writer):
    """INTEGERS, the same statements before and after."""

    def keys(self) -> list[Any]:
        return [1000 * self.number + n for n in range(PARENTS)]

    def add_parent(self, key: Any, name: str) -> None:
        self.session.execute("INSERT INTO customers VALUES (%s, %s, %s)", (key, name, name))
        self.parents[key] = name

    def name_parent(self, key: Any, name: str) -> None:
        self.session.execute("UPDATE customers SET name = %s, email = %s WHERE id = %s", (name, name, key))
        self.parents[key] = name

    def remove_parent(self, key: Any) -> None:
        self.session.execute("DELETE FROM customers WHERE id = %s", (key,))
        del self.parents[key]
        self.forget_rows_of(key)

    def write_row(self, key: int, parent: Any, said: str) -> None:
        follows = self.random.choice([None, *sorted(self.rows)])
        self.session.execute(
            "INSERT INTO orders (id, customer_id, follows, amount) VALUES (%s, %s, %s, %s)",
            (key, parent, follows, _digits(said)),
        )
        self.rows[key] = (parent, said)

    def change_row(self, key: int, parent: Any, said: str) -> None:
        self.session.execute(
            "UPDATE orders SET customer_id = %s, amount = %s WHERE id = %s", (parent, _digits(said), key)
        )
        self.rows[key] = (parent, said)

    def drop_row(self, key: int) -> None:
        self.session.execute("DELETE FROM orders WHERE id = %s", (key,))

    def insert_leaf(self) -> None:
        if self.rows:
            self.session.execute(
                "INSERT INTO lines VALUES (%s, %s, 'leaf')"
                " ON CONFLICT (order_id, line) DO UPDATE SET note = 'on'",
                (self.random.choice(sorted(self.rows)), self.random.randint(1, 4)),
            )

    def truncate_leaf(self) -> None:
        self.session.execute("TRUNCATE lines")

    def tally(self) -> list[tuple[int, str | None, str]]:
        return sorted(
            (key, self.parents.get(parent), str(_digits(said))) for key, (parent, said) in self.rows.items()
        )


def _digits(said: str) -> int:
    return int(said.rpartition(" ")[2])


class NamesWriter(Writer):
    """NAMES: `new` after the change, when a scope is its name and a parent's key changes with it."""

    def keys(self) -> list[Any]:
        return [UUID(int=1000 * self.number + n) for n in range(PARENTS)]

    def key_of(self, key: Any) -> Any:
        return key if key is None or not self.new else f"scope.{self.parents[key]}"

    def add_parent(self, key: Any, name: str) -> None:
        self.parents[key] = name
        self.session.execute("INSERT INTO scopes VALUES (%s, %s, 'note')", (self.key_of(key), name))

    def name_parent(self, key: Any, name: str) -> None:
        """In the new schema the rows move to the new key in the same transaction."""
        before = self.key_of(key)
        self.parents[key] = name
        if not self.new:
            self.session.execute("UPDATE scopes SET name = %s WHERE scope_id = %s", (name, key))
            return
        after = self.key_of(key)
        self.session.execute("INSERT INTO scopes VALUES (%s, %s, 'moved')", (after, name))
        for table in ("events", "grants"):
            self.session.execute(
                sql.SQL("UPDATE {} SET scope_id = %s WHERE scope_id = %s").format(sql.Identifier(table)),
                (after, before),
            )
        self.session.execute("DELETE FROM scopes WHERE scope_id = %s", (before,))

    def remove_parent(self, key: Any) -> None:
        self.session.execute("UPDATE events SET scope_id = NULL WHERE scope_id = %s", (self.key_of(key),))
        self.session.execute("DELETE FROM grants WHERE scope_id = %s", (self.key_of(key),))
        self.session.execute("DELETE FROM scopes WHERE scope_id = %s", (self.key_of(key),))
        self.rows = {
            row: (None if parent == key else parent, said) for row, (parent, said) in self.rows.items()
        }
        del self.parents[key]

    def write_row(self, key: int, parent: Any, said: str) -> None:
        self.session.execute(
            "INSERT INTO events (id, scope_id, said) OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s)",
            (key, self.key_of(parent), said),
        )
        self.rows[key] = (parent, said)

    def change_row(self, key: int, parent: Any, said: str) -> None:
        self.session.execute(
            "UPDATE events SET scope_id = %s, said = %s WHERE id = %s", (self.key_of(parent), said, key)
        )
        self.rows[key] = (parent, said)

    def drop_row(self, key: int) -> None:
        self.session.execute("DELETE FROM events WHERE id = %s", (key,))

    def insert_leaf(self) -> None:
        if self.parents:
            self.session.execute(
                "INSERT INTO grants VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (self.key_of(self.random.choice(sorted(self.parents))), f"who {self.random.randint(1, 3)}"),
            )

    def truncate_leaf(self) -> None:
        self.session.execute("TRUNCATE grants")


class CompositeWriter(Writer):
    """COMPOSITE before the change: domains move between organizations, and their rows with them."""

    def keys(self) -> list[Any]:
        return [UUID(int=1000 * self.number + n) for n in range(PARENTS)]

    def add_parent(self, key: Any, name: str) -> None:
        above = self.random.choice([None, *sorted(self.parents)])
        self.session.execute("INSERT INTO domains VALUES (%s, %s, %s, %s)", (key, self.number, name, above))
        self.parents[key] = name

    def name_parent(self, key: Any, name: str) -> None:
        organization = self.number + self.random.choice([0, 0, 100])
        self.session.execute(
            "UPDATE domains SET name = %s, organization_id = %s WHERE domain_id = %s",
            (name, organization, key),
        )
        self.session.execute(
            "UPDATE decisions SET organization_id = %s WHERE domain_id = %s", (organization, key)
        )
        self.parents[key] = name

    def remove_parent(self, key: Any) -> None:
        self.session.execute("UPDATE domains SET parent_id = NULL WHERE parent_id = %s", (key,))
        self.session.execute("DELETE FROM verdicts WHERE domain_id = %s", (key,))
        self.session.execute("DELETE FROM domains WHERE domain_id = %s", (key,))
        del self.parents[key]
        self.forget_rows_of(key)

    def write_row(self, key: int, parent: Any, said: str) -> None:
        self.session.execute(
            "INSERT INTO decisions VALUES (%(key)s,"
            " (SELECT organization_id FROM domains WHERE domain_id = %(parent)s), %(parent)s, %(said)s)",
            {"key": key, "parent": parent, "said": said},
        )
        self.rows[key] = (parent, said)

    def change_row(self, key: int, parent: Any, said: str) -> None:
        self.session.execute(
            "UPDATE decisions SET domain_id = %(parent)s, said = %(said)s,"
            " organization_id = (SELECT organization_id FROM domains WHERE domain_id = %(parent)s)"
            " WHERE id = %(key)s",
            {"key": key, "parent": parent, "said": said},
        )
        self.rows[key] = (parent, said)

    def drop_row(self, key: int) -> None:
        self.session.execute("DELETE FROM decisions WHERE id = %s", (key,))

    def insert_leaf(self) -> None:
        if self.parents and self.rows:
            parent, number = self.random.choice(sorted(self.parents)), self.random.randint(1, 5)
            self.write_leaf(parent, number, self.random.choice(sorted(self.rows)))

    def write_leaf(self, parent: Any, number: int, row: int) -> None:
        self.session.execute(
            "INSERT INTO verdicts VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", (parent, number, row)
        )
        self.session.execute(
            "INSERT INTO timeline (id, domain_id, number) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (1_000_000 * self.number + self.random.randint(1, 500), parent, number),
        )

    def truncate_leaf(self) -> None:
        self.session.execute("TRUNCATE timeline")


class NewCompositeWriter(CompositeWriter):
    """COMPOSITE after the change: a parent is known by organization and name."""

    def key_of(self, parent: Any) -> tuple[int | None, str | None]:
        """The organization is looked up: it may have been another before the change."""
        if parent is None:
            return None, None
        organization = self.session.value(
            "SELECT organization_id FROM domains WHERE domain = %s", (self.parents[parent],)
        )
        return organization, self.parents[parent]

    def add_parent(self, key: Any, name: str) -> None:
        above = self.key_of(self.random.choice([None, *sorted(self.parents)]))
        self.session.execute(
            "INSERT INTO domains (organization_id, domain, parent_organization_id, parent_domain)"
            " VALUES (%s, %s, %s, %s)",
            (self.number, name, *above),
        )
        self.parents[key] = name

    def name_parent(self, key: Any, name: str) -> None:
        """A new domain, everything moved to it, the old one gone."""
        before = self.key_of(key)
        after = (self.number + self.random.choice([0, 0, 100]), name)
        self.session.execute(
            "INSERT INTO domains (organization_id, domain, parent_organization_id, parent_domain)"
            " SELECT %s, %s, parent_organization_id, parent_domain FROM domains"
            " WHERE organization_id = %s AND domain = %s",
            (*after, *before),
        )
        self.session.execute(
            "UPDATE domains SET parent_organization_id = %s, parent_domain = %s"
            " WHERE parent_organization_id = %s AND parent_domain = %s",
            (*after, *before),
        )
        self.session.execute(
            "INSERT INTO verdicts (organization_id, domain, number, decision_id)"
            " SELECT %s, %s, number, decision_id FROM verdicts WHERE organization_id = %s AND domain = %s",
            (*after, *before),
        )
        for table in ("decisions", "timeline"):
            self.session.execute(
                sql.SQL(
                    "UPDATE {} SET organization_id = %s, domain = %s"
                    " WHERE organization_id = %s AND domain = %s"
                ).format(sql.Identifier(table)),
                (*after, *before),
            )
        for table in ("verdicts", "domains"):
            self.delete_from(table, before)
        self.parents[key] = name

    def delete_from(self, table: str, key: tuple[int | None, str | None]) -> None:
        self.session.execute(
            sql.SQL("DELETE FROM {} WHERE organization_id = %s AND domain = %s").format(
                sql.Identifier(table)
            ),
            key,
        )

    def remove_parent(self, key: Any) -> None:
        gone = self.key_of(key)
        self.session.execute(
            "UPDATE domains SET parent_organization_id = NULL, parent_domain = NULL"
            " WHERE parent_organization_id = %s AND parent_domain = %s",
            gone,
        )
        self.delete_from("verdicts", gone)
        self.delete_from("domains", gone)
        del self.parents[key]
        self.forget_rows_of(key)

    def write_row(self, key: int, parent: Any, said: str) -> None:
        self.session.execute(
            "INSERT INTO decisions (id, organization_id, domain, said) VALUES (%s, %s, %s, %s)",
            (key, *self.key_of(parent), said),
        )
        self.rows[key] = (parent, said)

    def change_row(self, key: int, parent: Any, said: str) -> None:
        self.session.execute(
            "UPDATE decisions SET organization_id = %s, domain = %s, said = %s WHERE id = %s",
            (*self.key_of(parent), said, key),
        )
        self.rows[key] = (parent, said)

    def write_leaf(self, parent: Any, number: int, row: int) -> None:
        key = self.key_of(parent)
        self.session.execute(
            "INSERT INTO verdicts (organization_id, domain, number, decision_id) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            (*key, number, row),
        )
        self.session.execute(
            "INSERT INTO timeline (id, organization_id, domain, number, at) VALUES (%s, %s, %s, %s, now())"
            " ON CONFLICT DO NOTHING",
            (1_000_000 * self.number + self.random.randint(1, 500), *key, number),
        )


WRITERS: Mapping[tuple[str, bool], type[Writer]] = {
    (INTEGERS.name, False): IntegersWriter,
    (INTEGERS.name, True): IntegersWriter,
    (NAMES.name, False): NamesWriter,
    (NAMES.name, True): NamesWriter,
    (COMPOSITE.name, False): CompositeWriter,
    (COMPOSITE.name, True): NewCompositeWriter,
}


@contextmanager
def writing(
    target: Target,
    example: Example,
    seed: float,
    count: int,
    *,
    new: bool = False,
    known: list[Writer] | None = None,
) -> Iterator[list[Writer]]:
    """`count` writers at work in threads until the block ends; raises what any of them raised."""
    stop = threading.Event()
    failed: list[BaseException] = []
    writers = [_writer(target, example, seed, number, new, known) for number in range(1, count + 1)]

    def work(writer: Writer) -> None:
        try:
            while not stop.is_set():
                writer.step()
                stop.wait(writer.random.random() * 0.004)
        except Exception as error:  # noqa: BLE001 - whatever a thread dies of, the test fails with it
            failed.append(error)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for writer in writers:
            writer.session.close()
    if failed:
        raise failed[0]


def _writer(
    target: Target, example: Example, seed: float, number: int, new: bool, known: list[Writer] | None
) -> Writer:
    session = connect(target, settings={"search_path": "public"})
    rng = random.Random(f"{seed} {number} {new}")
    writer = WRITERS[example.name, new](number, rng, session, new=new, truncates=number == 1)
    if known is not None:
        before = known[number - 1]
        writer.parents, writer.rows, writer.next_row = before.parents, before.rows, before.next_row
    else:
        for _ in range(60):
            writer.step()
    return writer


def tally(writers: list[Writer]) -> list[tuple[str, ...]]:
    """What all writers together have left."""
    return sorted(tuple(map(str, row)) for writer in writers for row in writer.tally())
