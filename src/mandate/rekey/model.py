"""What a change of keys is made of: tables, the groups of columns that change in them, and new columns.

Pure. `discover` fills it from the catalogue; everything else reads it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mandate.postgres.connection import sql
from mandate.rekey.spec import Key, Spec


@dataclass(frozen=True)
class Column:
    """A column of an existing table, as pg_attribute has it."""

    name: str
    type: str
    number: int
    not_null: bool
    default: str | None = None
    generated: bool = False
    identity: Literal["", "a", "d"] = ""


@dataclass(frozen=True)
class Table:
    """An existing table. `key` is how its rows are told apart: its primary key's columns."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    rows: int = 0
    bytes: int = 0
    blocks: int = 0

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def column(self, name: str) -> Column:
        """The column called `name`. Raises KeyError."""
        return next(iter(c for c in self.columns if c.name == name))

    def has(self, name: str) -> bool:
        """Whether there is a column called `name`."""
        return any(column.name == name for column in self.columns)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Change:
    """One key of the spec, and how its values are found: `inline` from the old value alone, else by map."""

    number: int
    key: Key
    inline: bool
    old_types: tuple[str, ...]
    new_types: tuple[str, ...]

    @property
    def map_name(self) -> str:
        """Name of the map table in the work schema: columns o1.., n1.., primary key o1..."""
        return f"map_{self.number}"


@dataclass(frozen=True)
class Group:
    """Columns of one table that hold a key that changes: `old` here become `new` here.

    `owner`: this table is the parent itself. `kept[i]`: new[i] is a column that the table has already and
    keeps; what the map says must equal it.
    """

    change: Change
    old: tuple[str, ...]
    new: tuple[str, ...]
    kept: tuple[bool, ...]
    owner: bool = False


@dataclass(frozen=True)
class NewColumn:
    """A column of a new table: copied from `source`, the `place`-th new column of group `group`, or added.

    An added one is `expression` over the old row; a row that is born later has `default`.
    """

    name: str
    type: str
    not_null: bool
    source: str | None = None
    group: int | None = None
    place: int = 0
    expression: str | None = None
    default: str | None = None


@dataclass(frozen=True)
class NewTable:
    """An existing table, the groups that change in it, and the columns it will have, in order.

    `primary_key`: where the spec says it; else it is the old one over the new columns.
    """

    old: Table
    groups: tuple[Group, ...]
    columns: tuple[NewColumn, ...]
    parents: tuple[int, ...] = ()
    primary_key: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """The new primary key's columns."""
        return self.primary_key or self.renamed(self.old.key)

    def renamed(self, names: Sequence[str]) -> tuple[str, ...]:
        """Old column names as new ones; a group's columns are replaced together, where its first stood."""
        found: list[str] = []
        for name in names:
            group = self.group_of(name)
            found += [name] if group is None else group.new
        return tuple(dict.fromkeys(found))

    def group_of(self, column: str) -> Group | None:
        """The group that `column` is an old column of."""
        return next((group for group in self.groups if column in group.old), None)

    @property
    def gone(self) -> frozenset[str]:
        """Old columns that no new column is called after."""
        return frozenset(c.name for c in self.old.columns) - {c.name for c in self.columns}

    def __str__(self) -> str:
        return str(self.old)


@dataclass(frozen=True)
class Graph:
    """The whole change: keys, and all tables that hold them, parents before children."""

    spec: Spec
    changes: tuple[Change, ...]
    tables: tuple[NewTable, ...]
    refused: tuple[str, ...] = field(default=())

    def table(self, oid: int) -> NewTable:
        """The table with this oid. Raises KeyError."""
        found = next((table for table in self.tables if table.old.oid == oid), None)
        if found is None:
            raise KeyError(oid)
        return found

    def aside(self, base: str, schema: str) -> str:
        """Where what belongs in `schema` is while it is not there. `base`: one of the spec's schemas.

        One for each schema, or what is called the same in two of them would meet.
        """
        if schema == min(table.old.schema for table in self.tables):
            return base
        return f"{base}${zlib.crc32(schema.encode()):08x}"

    def shadow_schema(self, schema: str) -> str:
        """Where the new tables of a schema are until the cutover."""
        return self.aside(self.spec.shadow_schema, schema)

    def owner(self, change: Change) -> NewTable:
        """The parent whose key `change` is."""
        return next(
            table
            for table in self.tables
            if any(group.owner and group.change.number == change.number for group in table.groups)
        )
