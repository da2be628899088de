"""Catalogue + spec -> the graph of tables that hold a key which changes. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from mandate.errors import CheckFailed, UsageError
from mandate.postgres.connection import Row, Session
from mandate.rekey import expressions, rewriting, spec_check, spec_parts
from mandate.rekey.model import Change, Column, Graph, Group, NewColumn, NewTable, Table
from mandate.rekey.spec import Key, Spec
from mandate.rekey.spec import Table as TableSpec

_SQL = Path(__file__).parent / "sql"


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key: child columns in the order of the referred columns."""

    oid: int
    name: str
    child: int
    parent: int
    columns: tuple[str, ...]
    referred: tuple[str, ...]
    refused: str | None = None


def discover(session: Session, spec: Spec) -> Graph:
    """Find everything that holds a key of the spec.

    Types are written in full, whatever the search path of the session. Raises UsageError for a table or
    column of the spec that is not there, and CheckFailed, naming the
    objects, for what the engine cannot change.
    """
    session.execute("SELECT set_config('search_path', '', false)")
    try:
        graph = _discover(session, spec)
        spec_check.require(session, graph)
    except UsageError as error:
        raise UsageError(f"{spec.source}: {error.message}", hint=error.hint) from None
    return graph


def _discover(session: Session, spec: Spec) -> Graph:
    tables = {row["oid"]: _table(row) for row in session.rows((_SQL / "discover_tables.sql").read_bytes())}
    keys = [_foreign_key(row) for row in session.rows((_SQL / "discover_foreign_keys.sql").read_bytes())]
    changes = tuple(_change(session, tables, number, key) for number, key in enumerate(spec.key, start=1))
    groups: dict[int, tuple[Group, ...]] = {
        _built(session, tables, each, number).oid: () for number, each in enumerate(spec.table)
    }
    groups |= _groups(spec, tables, keys, changes)
    found = [_new_table(spec, tables[oid], held) for oid, held in groups.items()]
    ordered = _parents_first(found, keys)
    _refuse([table for table in ordered if not table.old.key])
    graph = Graph(spec, changes, ordered)
    spec_parts.require_tables(graph)
    return graph


def _built(session: Session, tables: Mapping[int, Table], given: TableSpec, number: int) -> Table:
    """The table of a [[table]]."""
    where = f"table[{number}]"
    _require_ordinary(session, given.name, where)
    table = _named(tables, given.name, where)
    _require_columns(table, given.primary_key, f"{where}.primary_key")
    for place, column in enumerate(given.column):
        at = f"{where}.column[{place}]"
        if table.has(column.name):
            raise UsageError(f"{at}: {table} has a column {column.name} already")
        expressions.require_type(column.type, at)
        for text in (column.expression, column.default):
            if text is not None:
                expressions.require_one(text, at)
    return table


def _refuse(keyless: Sequence[NewTable]) -> None:
    if keyless:
        names = ", ".join(map(str, keyless))
        raise CheckFailed(
            f"without a primary key rows cannot be told apart: {names}",
            hint="add a primary key to each of them first",
            tables=[str(table) for table in keyless],
        )


def _table(row: Row) -> Table:
    columns = tuple(Column(**column) for column in row["columns"])
    return Table(
        row["oid"],
        row["schema"],
        row["name"],
        columns,
        tuple(row["key"] or ()),
        row["rows"],
        row["bytes"],
        row["blocks"],
    )


def _foreign_key(row: Row) -> ForeignKey:
    return ForeignKey(
        row["oid"],
        row["name"],
        row["child"],
        row["parent"],
        tuple(row["columns"]),
        tuple(row["referred"]),
        row["refused"],
    )


def _named(tables: Mapping[int, Table], name: str, where: str) -> Table:
    found = next((table for table in tables.values() if str(table) == name), None)
    if found is None:
        like = get_close_matches(name, map(str, tables.values()), 1)
        raise UsageError(
            f"{where}: there is no table {name}",
            hint=f"did you mean {like[0]}?" if like else "give it as schema.table",
        )
    return found


def _require_ordinary(session: Session, name: str, where: str) -> None:
    """Raise CheckFailed for a relation that is there and no ordinary table."""
    kind = session.value((_SQL / "discover_kind.sql").read_bytes(), (name,))
    if kind is not None:
        raise CheckFailed(
            f"{where}: {name} is {kind}", hint="the engine changes the keys of ordinary, logged tables"
        )


def _require_columns(table: Table, names: Sequence[str], where: str) -> None:
    for name in names:
        if not table.has(name):
            like = get_close_matches(name, [column.name for column in table.columns], 1)
            hint = f"did you mean {like[0]}?" if like else None
            raise UsageError(f"{where}: {table} has no column {name}", hint=hint)


def _change(session: Session, tables: Mapping[int, Table], number: int, key: Key) -> Change:
    where = f"key[{number - 1}]"
    _require_ordinary(session, key.table, where)
    parent = _named(tables, key.table, where)
    _require_columns(parent, [*key.columns, *key.drop], where)
    _require_columns(parent, [column.name for column in key.new if column.existing], where)
    for text in [c.expression for c in key.new if c.expression] + list(key.drop.values()):
        expressions.require_one(text, where)
    for column in key.new:
        if column.type:
            expressions.require_type(column.type, where)
    _require_columns(parent, [column.replaces for column in key.new if column.replaces], where)
    if key.query is not None:
        expressions.require_select(key.query, f"{where}.query")
    return Change(
        number,
        key,
        _is_inline(key),
        tuple(parent.column(name).type for name in key.columns),
        tuple(column.type or parent.column(column.name).type for column in key.new),
    )


def _is_inline(key: Key) -> bool:
    """The new value follows from the old one alone, both ways: then no map is needed.

    With old_default the old value of a row born later does not; an expression that reads no column, such as
    gen_random_uuid(), is evaluated once for each parent and kept.
    """
    if len(key.columns) != 1 or len(key.new) != 1 or key.drop or key.old_default or key.query:
        return False
    text = key.new[0].expression
    return text is not None and expressions.columns(text) == {key.columns[0]}


def _groups(
    spec: Spec, tables: Mapping[int, Table], keys: Sequence[ForeignKey], changes: Sequence[Change]
) -> dict[int, tuple[Group, ...]]:
    """The groups of every table, found by following foreign keys from each parent to the end."""
    found: dict[int, dict[tuple[str, ...], Group]] = {}
    _require_references(spec, tables)
    for change in changes:
        parent = _named(tables, change.key.table, f"key[{change.number - 1}]")
        _add(found, parent, _owner_group(change))
        for reference in spec.reference:
            if reference.key == change.key.table:
                child = _named(tables, reference.table, "reference")
                _add(found, child, _child_group(spec, child, change, tuple(reference.columns)))
    while sum(_follow(spec, tables, found, key) for key in keys):
        pass
    return {oid: tuple(held.values()) for oid, held in found.items()}


def _require_references(spec: Spec, tables: Mapping[int, Table]) -> None:
    keys = {key.table: key for key in spec.key}
    for number, reference in enumerate(spec.reference):
        where = f"reference[{number}]"
        _require_columns(_named(tables, reference.table, where), reference.columns, where)
        if reference.key is not None and reference.key not in keys:
            raise UsageError(f"{where}.key: {reference.key} is the table of no [[key]]")
        if reference.key is not None and len(reference.columns) != len(keys[reference.key].columns):
            wanted = ", ".join(keys[reference.key].columns)
            raise UsageError(f"{where}.columns: there must be as many as in the key ({wanted})")


def _add(found: dict[int, dict[tuple[str, ...], Group]], table: Table, group: Group) -> bool:
    held = found.setdefault(table.oid, {})
    if group.old in held:
        _require_same(table, held[group.old], group)
        return False
    overlapping = [old for old in held if set(old) & set(group.old)]
    if overlapping:
        raise CheckFailed(
            f"{table}: columns {', '.join(group.old)} and {', '.join(overlapping[0])} overlap, both change",
            hint="the engine changes a column once; say which with [[reference]]",
        )
    held[group.old] = group
    return True


def _require_same(table: Table, one: Group, other: Group) -> None:
    if one.change.number != other.change.number:
        raise CheckFailed(
            f"{table}: {', '.join(one.old)} refers to {one.change.key.table} and to {other.change.key.table},"
            " whose keys change differently"
        )


def _owner_group(change: Change) -> Group:
    key = change.key
    return Group(
        change,
        tuple(key.columns),
        tuple(column.name for column in key.new),
        tuple(column.existing for column in key.new),
        owner=True,
    )


def _follow(
    spec: Spec,
    tables: Mapping[int, Table],
    found: dict[int, dict[tuple[str, ...], Group]],
    key: ForeignKey,
) -> bool:
    """Give the child of a foreign key the groups of its parent that the key covers; True for a new one."""
    added = False
    for group in list(found.get(key.parent, {}).values()):
        touched = set(group.old) & set(key.referred)
        if not touched:
            continue
        if key.refused is not None:
            raise CheckFailed(
                f"{key.refused}: the engine cannot change what foreign key {key.name} refers to",
                hint="drop that foreign key, or make it an ordinary table",
            )
        if touched != set(group.old):
            raise CheckFailed(
                f"foreign key {key.name} of {tables[key.child]} refers to a part of a key that changes",
                hint="drop it, or change it to refer to the whole key",
            )
        places = [key.referred.index(name) for name in group.old]
        columns = tuple(key.columns[place] for place in places)
        child = tables[key.child]
        added |= _add(found, child, _child_group(spec, child, group.change, columns))
    return added


def _child_group(spec: Spec, child: Table, change: Change, columns: tuple[str, ...]) -> Group:
    names = _child_names(spec, child, change, columns)
    kept = tuple(
        column.existing and child.has(name) for column, name in zip(change.key.new, names, strict=True)
    )
    return Group(change, columns, names, kept)


def _child_names(spec: Spec, child: Table, change: Change, columns: tuple[str, ...]) -> tuple[str, ...]:
    """[[reference]] says, else a single column keeps its name, else the names of the key."""
    for reference in spec.reference:
        if reference.table == str(child) and tuple(reference.columns) == columns and reference.new:
            if len(reference.new) != len(change.key.new):
                raise UsageError(f"reference {reference.table}: new must name {len(change.key.new)} columns")
            return tuple(reference.new)
    new = tuple(column.name for column in change.key.new)
    if len(columns) == 1 and len(new) == 1 and new[0] == change.key.columns[0]:
        return columns
    return new


def _new_table(spec: Spec, table: Table, groups: tuple[Group, ...]) -> NewTable:
    columns = tuple(_columns(table, groups))
    given = spec.built(str(table))
    if given is None:
        return NewTable(table, groups, columns)
    key = tuple(given.primary_key)
    changing = {name for group in groups for name in (*group.old, *group.new)}
    if key and (changing & {*key, *table.key}):
        raise UsageError(f"table {table}: its primary key changes with a [[key]]: give no primary_key")
    kept = (replace(each, not_null=True) if each.name in key else each for each in columns)
    added = (
        NewColumn(each.name, each.type, each.not_null, expression=each.expression, default=each.default)
        for each in given.column
    )
    return NewTable(table, groups, (*kept, *added), primary_key=key)


def _columns(table: Table, groups: Sequence[Group]) -> Iterator[NewColumn]:
    """The new table's columns: each new one where the first old column of its group stood.

    A new column of a parent that is a dropped column under another name stands where that one stood.
    """
    fresh = {name for group in groups for name, kept in zip(group.new, group.kept, strict=True) if not kept}
    dropped = {name for group in groups if group.owner for name in group.change.key.drop}
    placed = _places(table, groups)
    for column in table.columns:
        yield from placed.get(column.name, [])
        if any(column.name in group.old for group in groups) or column.name in dropped | fresh:
            continue
        yield NewColumn(column.name, column.type, _not_null(column, groups), source=column.name)


def _not_null(column: Column, groups: Sequence[Group]) -> bool:
    kept = any(column.name in group.new and group.change.key.not_null for group in groups if not group.owner)
    return column.not_null or kept


def _places(table: Table, groups: Sequence[Group]) -> dict[str, list[NewColumn]]:
    """Old column -> the new columns that take its place."""
    placed: dict[str, list[NewColumn]] = {}
    for number, group in enumerate(groups):
        always_set = all(table.column(name).not_null for name in group.old)
        for place, (name, kept) in enumerate(zip(group.new, group.kept, strict=True)):
            if kept:
                continue
            where = _stands_at(group, place)
            required = group.change.key.not_null or always_set
            placed.setdefault(where, []).append(
                NewColumn(name, group.change.new_types[place], required, group=number, place=place)
            )
    return placed


def _stands_at(group: Group, place: int) -> str:
    moved = rewriting.moved(group.change.key.new[place]) if group.owner else None
    return moved if moved is not None and moved in group.change.key.drop else group.old[0]


def _parents_first(tables: Sequence[NewTable], keys: Sequence[ForeignKey]) -> tuple[NewTable, ...]:
    """Order by foreign keys. In a circle somebody has to be first: rows are brought over regardless.

    What is kept in step checks its foreign keys at the end of each batch.
    """
    by_oid = {table.old.oid: table for table in tables}
    parents: dict[int, set[int]] = {oid: set() for oid in by_oid}
    for key in keys:
        if key.child in by_oid and key.parent in by_oid and key.child != key.parent:
            parents[key.child].add(key.parent)
    return tuple(replace(by_oid[oid], parents=tuple(sorted(parents[oid]))) for oid in _ordered(parents))


def _ordered(parents: Mapping[int, Set[int]]) -> list[int]:
    left = {child: set(each) for child, each in parents.items()}
    while True:
        try:
            return list(TopologicalSorter(left).static_order())
        except CycleError as error:
            first, second = error.args[1][:2]
            left[second].discard(first)
