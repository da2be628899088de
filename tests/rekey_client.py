"""A client of an example's tables that knows what it wrote, whatever the keys are."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from mandate.postgres.connection import Session

PARENTS = 6
NAMES_EACH = 9


@dataclass
class Writer(ABC):
    """One client with its own parents and rows: `rows` is what it has committed, by id."""

    number: int
    random: random.Random
    session: Session
    new: bool = False
    parents: dict[Any, str] = field(default_factory=dict)
    rows: dict[int, tuple[Any, str]] = field(default_factory=dict)
    next_row: int = 0
    truncates: bool = False

    def step(self) -> None:
        """One transaction; what it did is in `parents` and `rows` once it has committed."""
        parents, rows, next_row = dict(self.parents), dict(self.rows), self.next_row
        try:
            with self.session.transaction():
                for _ in range(self.random.randint(1, 3)):
                    self.random.choice(self.operations())()
                if self.random.random() < 0.15:
                    raise _ChangedMind
        except _ChangedMind:
            self.parents, self.rows, self.next_row = parents, rows, next_row

    def operations(self) -> list[Any]:
        often = [self.insert_row, self.insert_row, self.update_row, self.delete_row, self.insert_leaf]
        seldom = [
            self.insert_parent,
            self.rename_parent,
            self.swap_names,
            self.delete_parent,
            self.reuse_parent,
        ]
        return often + often + seldom + ([self.truncate_leaf] if self.truncates else [])

    def insert_parent(self) -> None:
        free = [key for key in self.keys() if key not in self.parents]
        if free and (name := self.free_name()):
            self.add_parent(self.random.choice(free), name)

    def free_name(self) -> str | None:
        names = {f"w{self.number}-{n}" for n in range(NAMES_EACH)} - set(self.parents.values())
        return self.random.choice(sorted(names)) if names else None

    def rename_parent(self) -> None:
        if self.parents and (name := self.free_name()):
            self.name_parent(self.random.choice(sorted(self.parents)), name)

    def swap_names(self) -> None:
        if len(self.parents) > 1 and (spare := self.free_name()):
            one, other = self.random.sample(sorted(self.parents), 2)
            first, second = self.parents[one], self.parents[other]
            self.name_parent(one, spare)
            self.name_parent(other, first)
            self.name_parent(one, second)

    def delete_parent(self) -> None:
        if len(self.parents) > 1:
            self.remove_parent(self.random.choice(sorted(self.parents)))

    def reuse_parent(self) -> None:
        """The same key again, with another name and another row of its own."""
        if len(self.parents) > 1 and (name := self.free_name()):
            key = self.random.choice(sorted(self.parents))
            self.remove_parent(key)
            self.add_parent(key, name)
            self.insert_row_of(key)

    def insert_row(self) -> None:
        if self.parents:
            self.insert_row_of(self.random.choice([*sorted(self.parents), None]))

    def insert_row_of(self, parent: Any) -> None:
        self.next_row += 1
        self.write_row(1_000_000 * self.number + self.next_row, parent, f"said {self.next_row}")

    def update_row(self) -> None:
        if self.rows:
            key = self.random.choice(sorted(self.rows))
            said = f"again {self.random.randint(0, 99)}"
            parent = self.random.choice([*sorted(self.parents), self.rows[key][0]])
            self.change_row(key, parent, said)

    def delete_row(self) -> None:
        if self.rows:
            key = self.random.choice(sorted(self.rows))
            self.drop_row(key)
            del self.rows[key]

    def forget_rows_of(self, parent: Any) -> None:
        self.rows = {key: row for key, row in self.rows.items() if row[0] != parent}

    # What differs from example to example.

    @abstractmethod
    def keys(self) -> list[Any]:
        """See the example's own writer."""

    @abstractmethod
    def add_parent(self, key: Any, name: str) -> None:
        """See the example's own writer."""

    @abstractmethod
    def name_parent(self, key: Any, name: str) -> None:
        """See the example's own writer."""

    @abstractmethod
    def remove_parent(self, key: Any) -> None:
        """See the example's own writer."""

    @abstractmethod
    def write_row(self, key: int, parent: Any, said: str) -> None:
        """See the example's own writer."""

    @abstractmethod
    def change_row(self, key: int, parent: Any, said: str) -> None:
        """See the example's own writer."""

    @abstractmethod
    def drop_row(self, key: int) -> None:
        """See the example's own writer."""

    @abstractmethod
    def insert_leaf(self) -> None:
        """See the example's own writer."""

    @abstractmethod
    def truncate_leaf(self) -> None:
        """See the example's own writer."""

    def tally(self) -> list[tuple[int, str | None, str]]:
        """(id, name of its parent, what it says) of every row that should be there."""
        return sorted((key, self.parents.get(row[0]), row[1]) for key, row in self.rows.items())


class _ChangedMind(Exception):
    """The client rolls back."""
