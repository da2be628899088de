"""Rows of a source whose references cannot become those of the destination, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mandate.postgres.connection import Session, sql
from mandate.rekey import transform
from mandate.rekey.direction import FORWARD, Direction, place_names, text_array
from mandate.rekey.model import Graph, Group, NewTable

Composable = sql.Composable
_SHOWN = 20


def problems(session: Session, graph: Graph) -> list[str]:
    """What is wrong in all rows, one line a row, at most 20 for each table and reason."""
    return [
        line
        for table in graph.tables
        for line in _found(session, graph, FORWARD, table, FORWARD.source(table))
    ]


def problems_of(
    session: Session, graph: Graph, direction: Direction, table: NewTable, source: sql.Composable
) -> list[str]:
    """What is wrong in the rows of `source`, which has the columns of the table's source."""
    return list(_found(session, graph, direction, table, source))


def _found(
    session: Session, graph: Graph, direction: Direction, table: NewTable, source: sql.Composable
) -> Iterator[str]:
    key = direction.source_key(table)
    reasons = list(_reasons(direction, table))
    if not _any(session, graph, direction, table, source, [condition for _, condition in reasons]):
        return
    for reason, condition in reasons:
        rows = session.rows(
            sql.SQL("SELECT {} AS key FROM {} AS {}{} WHERE {} LIMIT {}").format(
                text_array(direction.alias, key),
                source,
                direction.alias,
                direction.joins(graph, table),
                condition,
                sql.Literal(_SHOWN),
            )
        )
        for row in rows:
            named = ", ".join(f"{name} {value}" for name, value in zip(key, row["key"], strict=True))
            yield f"{table} ({named}): {reason}"


def _any(
    session: Session,
    graph: Graph,
    direction: Direction,
    table: NewTable,
    source: sql.Composable,
    conditions: Sequence[Composable],
) -> bool:
    """Whether any is true of any row: one scan, where each by itself would be one.

    An aggregate, unlike EXISTS, is computed by several processes where the session allows it.
    """
    if not conditions:
        return False
    either = sql.SQL(" OR ").join(sql.SQL("({})").format(condition) for condition in conditions)
    found = session.value(
        sql.SQL("SELECT count(*) > 0 FROM {} AS {}{} WHERE {}").format(
            source, direction.alias, direction.joins(graph, table), either
        )
    )
    return bool(found)


def sound(direction: Direction, table: NewTable) -> Composable | None:
    """Condition for `Direction.rows`: every reference is in its map and agrees with the columns that stay.

    A row that is not sound was written after the map was filled, and so is in the log. None: all rows are.
    """
    conditions = [
        condition
        for number, group in enumerate(table.groups)
        for _, condition in _unsound(direction, group, number)
    ]
    if not conditions:
        return None
    return sql.SQL("NOT coalesce({}, false)").format(
        sql.SQL(" OR ").join(sql.SQL("({})").format(condition) for condition in conditions)
    )


def _reasons(direction: Direction, table: NewTable) -> Iterator[tuple[str, Composable]]:
    if direction.forward:
        yield from _without_key(table)
    for number, group in enumerate(table.groups):
        yield from _unsound(direction, group, number)
        if direction.forward:
            if not group.owner:
                yield from _without_value(group)
            yield from _overwritten(table, group, number)


def _without_key(table: NewTable) -> Iterator[tuple[str, Composable]]:
    """A column of the primary key that the spec gives, and that may be NULL now."""
    for name in table.primary_key:
        if not table.old.column(name).not_null:
            yield f"{name} is NULL", sql.SQL("o.{} IS NULL").format(sql.Identifier(name))


def _unsound(direction: Direction, group: Group, number: int) -> Iterator[tuple[str, Composable]]:
    if group.change.inline:
        return
    columns = direction.source_columns(group)
    found = sql.SQL("{}.{}").format(
        transform.group_alias(number), sql.Identifier(place_names(group, direction.prefixes[0])[0])
    )
    has_value = sql.SQL(" AND ").join(
        sql.SQL("{}.{} IS NOT NULL").format(direction.alias, sql.Identifier(name)) for name in columns
    )
    parent = group.change.key.table
    yield (
        f"{', '.join(columns)} is the key of no row of {parent}",
        sql.SQL("{} IS NULL AND {}").format(found, has_value),
    )
    if direction.forward:
        yield from _contradicts(group, number, found)


def _contradicts(group: Group, number: int, found: Composable) -> Iterator[tuple[str, Composable]]:
    for place, (name, kept) in enumerate(zip(group.new, group.kept, strict=True), start=1):
        if kept:
            yield (
                f"{name} is not that of the row of {group.change.key.table} it refers to",
                sql.SQL("{} IS NOT NULL AND o.{} IS DISTINCT FROM {}.{}").format(
                    found,
                    sql.Identifier(name),
                    transform.group_alias(number),
                    sql.Identifier(f"n{place}"),
                ),
            )


def _without_value(group: Group) -> Iterator[tuple[str, Composable]]:
    if group.change.key.not_null:
        null = sql.SQL(" OR ").join(
            sql.SQL("o.{} IS NULL").format(sql.Identifier(name)) for name in group.old
        )
        yield f"{', '.join(group.old)} is NULL", null


def _overwritten(table: NewTable, group: Group, number: int) -> Iterator[tuple[str, Composable]]:
    """A column that gets the new key's value, and says something else now that would be lost."""
    if group.change.inline:
        return
    alias = transform.group_alias(number)
    names = [f"d{place}" for place in range(1, len(group.change.key.drop) + 1)]
    for place, (name, kept) in enumerate(zip(group.new, group.kept, strict=True), start=1):
        if kept or name not in _taken(table, group):
            continue
        said = [
            sql.SQL("coalesce({}.{}::pg_catalog.text, '')").format(alias, sql.Identifier(column))
            for column in [f"n{place}", *names]
        ]
        yield (
            f"{name} names another row of {group.change.key.table} than {', '.join(group.old)}",
            sql.SQL("o.{}::pg_catalog.text NOT IN ('', {})").format(
                sql.Identifier(name), sql.SQL(", ").join(said)
            ),
        )


def overwritten(table: NewTable) -> frozenset[str]:
    """Old columns whose name a new key's column takes: what they held is not kept."""
    return frozenset(
        name
        for group in table.groups
        for name, kept in zip(group.new, group.kept, strict=True)
        if not kept and name in _taken(table, group)
    )


def _taken(table: NewTable, group: Group) -> frozenset[str]:
    """Names of the group's new columns that an old column has which is none of the key's."""
    own = {*group.old, *(group.change.key.drop if group.owner else ())}
    return frozenset(name for name in group.new if name not in own and table.old.has(name))
