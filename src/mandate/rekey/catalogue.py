"""Everything that belongs to the tables of a change, as the catalogue had it before the change began.

Kept in the work schema: after the swap the catalogue shows the old tables under other names, without
their foreign keys and with their triggers off, and the way back needs them as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter

from mandate.postgres.connection import Jsonb, Session, sql
from mandate.rekey.model import Graph

_SQL = Path(__file__).parent / "sql"


class _OfTable(Protocol):
    @property
    def table(self) -> int: ...


T = TypeVar("T", bound=_OfTable)


@dataclass(frozen=True)
class Grant:
    """One privilege; grantee None is PUBLIC."""

    grantee: str | None
    privilege: str
    grantable: bool


@dataclass(frozen=True)
class Relation:
    """A table, without its columns. `grants` None: never granted, the owner's defaults."""

    oid: int
    schema: str
    name: str
    owner: str
    method: str | None
    tablespace: str | None
    options: tuple[str, ...]
    toast_options: tuple[str, ...]
    grants: tuple[Grant, ...] | None
    comment: str | None
    replica_identity: str
    row_security: bool
    force_row_security: bool


@dataclass(frozen=True)
class OwnedSequence:
    """A sequence that a column owns, by serial or identity."""

    schema: str
    name: str
    owner: str
    type: str
    start: int
    increment: int
    minimum: int
    maximum: int
    cache: int
    cycle: bool
    persistence: str
    used_elsewhere: bool
    grants: tuple[Grant, ...] | None
    comment: str | None


@dataclass(frozen=True)
class NotNull:
    """A NOT NULL constraint of PostgreSQL 18; older ones have no name."""

    name: str
    no_inherit: bool
    valid: bool
    comment: str | None


@dataclass(frozen=True)
class Attribute:
    """A column; `expression` is its default, or what generates it."""

    table: int
    name: str
    type: str
    number: int
    generated: str
    identity: str
    expression: str | None
    collation: tuple[str, str] | None
    storage: str | None
    compression: str | None
    statistics: int | None
    options: tuple[str, ...]
    grants: tuple[Grant, ...] | None
    comment: str | None
    not_null: NotNull | None
    sequences: tuple[OwnedSequence, ...]


@dataclass(frozen=True)
class Index:
    """An index, with the constraint it serves; `statistics`: place of an expression -> target."""

    table: int
    oid: int
    name: str
    definition: str
    unique: bool
    valid: bool
    clustered: bool
    replica_identity: bool
    tablespace: str | None
    bytes: int
    comment: str | None
    constraint_name: str | None
    constraint_type: str | None
    deferrable: bool
    deferred: bool
    constraint_comment: str | None
    exclusion: bool
    constraint_definition: str | None
    columns: tuple[str, ...] | None
    statistics: Mapping[int, int]


@dataclass(frozen=True)
class Check:
    """A CHECK constraint."""

    table: int
    name: str
    expression: str
    valid: bool
    enforced: bool
    no_inherit: bool
    comment: str | None


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key; actions and match as pg_constraint writes them (a, r, c, n, d; f, s)."""

    oid: int
    name: str
    child: int
    child_schema: str
    child_name: str
    parent: int
    parent_schema: str
    parent_name: str
    columns: tuple[str, ...]
    referred: tuple[str, ...]
    match: str
    on_update: str
    on_delete: str
    delete_columns: tuple[str, ...]
    deferrable: bool
    deferred: bool
    valid: bool
    enforced: bool
    period: bool
    comment: str | None

    def __str__(self) -> str:
        return f"foreign key {self.name} of {self.child_schema}.{self.child_name}"


@dataclass(frozen=True)
class Trigger:
    """A trigger; `enabled` as pg_trigger writes it: O, D, R, A."""

    table: int
    name: str
    definition: str
    enabled: str
    comment: str | None


@dataclass(frozen=True)
class Policy:
    """A policy; role None is PUBLIC. `reads`: the tables and views of the change that it looks into.

    `renewed`: USING and WITH CHECK with the new names of columns of other tables, where they differ.
    """

    table: int
    schema: str
    table_name: str
    name: str
    permissive: bool
    command: str
    roles: tuple[str | None, ...]
    using: str | None
    with_check: str | None
    comment: str | None
    reads: tuple[int, ...]
    renewed: tuple[str | None, str | None] | None = None

    @property
    def after(self) -> Policy:
        """As it is once other tables' columns have their new names."""
        if self.renewed is None:
            return self
        return replace(self, using=self.renewed[0], with_check=self.renewed[1])


@dataclass(frozen=True)
class Statistics:
    """An extended statistics object."""

    table: int
    schema: str
    name: str
    definition: str
    owner: str
    target: int | None
    comment: str | None


@dataclass(frozen=True)
class Publication:
    """A publication that names the table; `columns` None: all of them."""

    table: int
    name: str
    columns: tuple[str, ...] | None
    filter: str | None


@dataclass(frozen=True)
class View:
    """A view that reads the tables, directly or through others.

    `renewed`: its definition with the new names of columns, where it differs.
    """

    oid: int
    schema: str
    name: str
    materialized: bool
    definition: str
    owner: str
    method: str | None
    tablespace: str | None
    options: tuple[str, ...]
    populated: bool
    grants: tuple[Grant, ...] | None
    comment: str | None
    renewed: str | None = None

    def __str__(self) -> str:
        return f"{'materialized ' if self.materialized else ''}view {self.schema}.{self.name}"


@dataclass(frozen=True)
class Rule:
    """A rule, not that which makes a view one; `enabled` as pg_rewrite writes it: O, D, R, A."""

    table: int
    schema: str
    table_name: str
    of_view: bool
    name: str
    definition: str
    enabled: str
    comment: str | None

    def __str__(self) -> str:
        return f"rule {self.name} of {self.schema}.{self.table_name}"


@dataclass(frozen=True)
class Argument:
    """What a function takes; `row_type`: place of the table or view whose row (`array`: rows) it is."""

    type: str
    row_type: tuple[str, str] | None
    array: bool


@dataclass(frozen=True)
class Function:
    """A function that holds on to the tables or views, by number or in what a session remembers of it.

    `anew`: it takes or returns a row of one, and cannot stay the same function. `renewed`: as a view's.
    """

    oid: int
    schema: str
    name: str
    definition: str
    owner: str = ""
    anew: bool = False
    arguments: tuple[Argument, ...] = ()
    grants: tuple[Grant, ...] | None = None
    comment: str | None = None
    renewed: str | None = None

    @property
    def row_types(self) -> set[tuple[str, str]]:
        """Places of the tables and views whose rows it takes."""
        return {each.row_type for each in self.arguments if each.row_type is not None}

    def __str__(self) -> str:
        return f"function {self.schema}.{self.name}"


@dataclass(frozen=True)
class Outside:
    """A table of nobody's change that the spec's foreign keys refer to."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True)
class Catalogue:
    """All of it. Columns, indexes, triggers and statistics are the views' too; `views` in order of need."""

    tables: tuple[Relation, ...]
    columns: tuple[Attribute, ...]
    indexes: tuple[Index, ...]
    checks: tuple[Check, ...]
    foreign_keys: tuple[ForeignKey, ...]
    triggers: tuple[Trigger, ...]
    policies: tuple[Policy, ...]
    statistics: tuple[Statistics, ...]
    publications: tuple[Publication, ...]
    views: tuple[View, ...] = ()
    functions: tuple[Function, ...] = field(default=())
    rules: tuple[Rule, ...] = ()
    outside: tuple[Outside, ...] = ()

    def table(self, oid: int) -> Relation:
        """The table with this oid. Raises StopIteration."""
        return next(iter([table for table in self.tables if table.oid == oid]))

    def columns_of(self, oid: int) -> dict[str, Attribute]:
        """The columns of a table or view, by name."""
        return {column.name: column for column in self.columns if column.table == oid}

    def is_inner(self, key: ForeignKey) -> bool:
        """Whether both its ends are tables of the change."""
        oids = {table.oid for table in self.tables}
        return key.child in oids and key.parent in oids


@cache
def _adapter() -> TypeAdapter[Catalogue]:
    return TypeAdapter(Catalogue)


def live(session: Session, graph: Graph) -> Catalogue:
    """What the catalogue shows now."""
    session.execute("SELECT set_config('search_path', '', false)")
    names: dict[str, Any] = {
        "tables": [table.old.oid for table in graph.tables],
        "work": graph.spec.work_schema,
    }
    views = _rows(session, "views", names)
    both = {**names, "tables": [*names["tables"], *(view["oid"] for view in views)]}
    related = {**names, "relations": both["tables"]}
    found = {
        "tables": _rows(session, "tables", names),
        "columns": _rows(session, "columns", both),
        "indexes": _rows(session, "indexes", both),
        "checks": _rows(session, "checks", names),
        "foreign_keys": _rows(session, "foreign_keys", names),
        "triggers": _rows(session, "triggers", both),
        "policies": _rows(session, "policies", related),
        "statistics": _rows(session, "statistics", both),
        "publications": _rows(session, "publications", names),
        "views": views,
        "functions": _rows(session, "functions", related),
        "rules": _rows(session, "rules", related),
        "outside": _rows(
            session, "outside", {**names, "names": [key.references for key in graph.spec.foreign_key]}
        ),
    }
    return _adapter().validate_python(found)


def _rows(session: Session, kind: str, names: Mapping[str, Any]) -> list[dict[str, Any]]:
    return session.rows((_SQL / f"objects_{kind}.sql").read_bytes(), names)


def keep(
    session: Session, graph: Graph, renewed: Callable[[Session, Graph, Catalogue], Catalogue]
) -> Catalogue:
    """Write down what the catalogue shows, unless it was written down already; what is kept.

    `renewed` adds what definitions will be over the new names of columns.
    """
    place = _place(graph)
    with session.transaction():
        session.execute(
            sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(graph.spec.work_schema))
        )
        session.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (one boolean PRIMARY KEY DEFAULT true CHECK (one),"
                " catalogue jsonb NOT NULL)"
            ).format(place)
        )
        if session.value(sql.SQL("SELECT count(*) FROM {}").format(place)) == 0:
            document = _adapter().dump_python(renewed(session, graph, live(session, graph)), mode="json")
            session.execute(
                sql.SQL("INSERT INTO {} (catalogue) VALUES (%s)").format(place), (Jsonb(document),)
            )
    return read(session, graph)


def is_kept(session: Session, graph: Graph) -> bool:
    """Whether anything was written down."""
    found: bool = session.value(
        "SELECT to_regclass(format('%%I.%%I', %s::text, 'objects')) IS NOT NULL", (graph.spec.work_schema,)
    )
    return found


def read(session: Session, graph: Graph) -> Catalogue:
    """What was kept; before anything was, what the catalogue shows now."""
    if not is_kept(session, graph):
        return live(session, graph)
    document = session.value(sql.SQL("SELECT catalogue FROM {}").format(_place(graph)))
    return live(session, graph) if document is None else _adapter().validate_python(document)


def _place(graph: Graph) -> sql.Identifier:
    return sql.Identifier(graph.spec.work_schema, "objects")


def of(items: Sequence[T], oid: int) -> list[T]:
    """Those that belong to a table or view."""
    return [item for item in items if item.table == oid]


def differences(before: Catalogue, now: Catalogue, shadow_schema: str) -> list[str]:
    """What is another in `now`, in words. What the engine's own shadows add is left out."""
    old, new = _described(before), _described(now)
    found = []
    for what in sorted(old.keys() | new.keys()):
        if what not in old and not re.search(rf" of {shadow_schema}(\$\w+)?\.", what):
            found.append(f"{what} was added")
        elif what not in new:
            found.append(f"{what} was dropped")
        elif what in old and old[what] != new[what]:
            found.append(f"{what} was changed")
    return found


def _described(catalogue: Catalogue) -> dict[str, object]:
    """Everything by its name in words, without sizes and what the shadows' defaults change."""
    names = {table.oid: f"{table.schema}.{table.name}" for table in catalogue.tables}
    names |= {view.oid: f"{view.schema}.{view.name}" for view in catalogue.views}
    columns = [
        replace(each, sequences=tuple(replace(s, used_elsewhere=False) for s in each.sequences))
        for each in catalogue.columns
    ]
    indexes = [replace(index, bytes=0) for index in catalogue.indexes]
    kinds: dict[str, Sequence[Any]] = {
        "column": columns,
        "index": indexes,
        "check": catalogue.checks,
        "trigger": catalogue.triggers,
        "statistics object": catalogue.statistics,
        "publication": catalogue.publications,
    }
    found: dict[str, object] = {
        f"{kind} {each.name} of {names[each.table]}": each for kind, items in kinds.items() for each in items
    }
    found |= {f"table {names[table.oid]}": table for table in catalogue.tables}
    found |= {str(key): replace(key, oid=0) for key in catalogue.foreign_keys}
    found |= {str(view): replace(view, populated=True, renewed=None) for view in catalogue.views}
    found |= {
        f"policy {p.name} of {p.schema}.{p.table_name}": replace(p, renewed=None) for p in catalogue.policies
    }
    found |= {str(rule): rule for rule in catalogue.rules}
    found |= {f"{f} ({f.oid})": replace(f, renewed=None) for f in catalogue.functions}
    return found
