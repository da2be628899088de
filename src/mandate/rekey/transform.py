"""SQL that turns an old row into the new one, and back. Pure: composed here, executed elsewhere.

Forward, the old table is aliased `o` and each group's new values come from a relation `g<i>` with columns
n1, n2, ...; backward the new table is `n` and the old values are o1, o2, ... of `g<i>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mandate.postgres.connection import Verbatim, sql
from mandate.rekey import json_keys
from mandate.rekey.model import Graph, Group, NewTable

Composable = sql.Composable


def expression(text: str) -> Composable:
    """An expression of the spec, in parentheses."""
    return sql.SQL("({})").format(Verbatim(text))


def column_list(names: Iterable[str]) -> sql.Composed:
    """Quoted names with commas between them."""
    return sql.SQL(", ").join(map(sql.Identifier, names))


def new_rows(graph: Graph, table: NewTable, source: Composable | None = None) -> sql.Composed:
    """SELECT of every row of the old table (or of `source`, which has its columns) as the new one."""
    columns = [_new_value(graph, table, position) for position in range(len(table.columns))]
    return sql.SQL("SELECT {} FROM {} AS o{}").format(
        sql.SQL(", ").join(columns), source or table.old.identifier, new_keys(graph, table)
    )


def _new_value(graph: Graph, table: NewTable, position: int) -> Composable:
    column = table.columns[position]
    if column.expression is not None:
        return sql.SQL("{}::{} AS {}").format(
            expression(column.expression), Verbatim(column.type), sql.Identifier(column.name)
        )
    if column.group is None:
        assert column.source is not None
        value = sql.SQL("o.{}").format(sql.Identifier(column.source))
        changed = json_keys.forward(graph, table, column.name, sql.Identifier("o"), value)
        return value if changed is value else sql.SQL("{} AS {}").format(changed, sql.Identifier(column.name))
    return sql.SQL("{}.{} AS {}").format(
        group_alias(column.group), sql.Identifier(f"n{column.place + 1}"), sql.Identifier(column.name)
    )


def group_alias(number: int) -> sql.Identifier:
    """Alias of the relation that has a group's values."""
    return sql.Identifier(f"g{number}")


def new_keys(graph: Graph, table: NewTable) -> sql.Composed:
    """The joins that find each group's new values for an old row `o`."""
    joins = [
        _inline(group, number) if group.change.inline else _mapped(graph, group, number)
        for number, group in enumerate(table.groups)
    ]
    return sql.Composed(joins)


def _inline(group: Group, number: int) -> Composable:
    """The expression over the old value alone; NULL stays NULL whatever the expression makes of it."""
    change = group.change
    old = sql.Identifier(change.key.columns[0])
    return sql.SQL(
        " CROSS JOIN LATERAL (SELECT CASE WHEN k.{old} IS NOT NULL THEN {expression} END AS n1"
        " FROM (SELECT o.{column} AS {old}) AS k) AS {alias}"
    ).format(
        old=old,
        expression=expression(change.key.new[0].expression or ""),
        column=sql.Identifier(group.old[0]),
        alias=group_alias(number),
    )


def _mapped(graph: Graph, group: Group, number: int) -> Composable:
    return sql.SQL(" LEFT JOIN {map} AS {alias} ON {on}").format(
        map=map_of(graph, group),
        alias=group_alias(number),
        on=_equal(group_alias(number), "o", sql.Identifier("o"), group.old),
    )


def _equal(left: Composable, prefix: str, right: Composable, names: Sequence[str]) -> sql.Composed:
    pairs = [
        sql.SQL("{}.{} = {}.{}").format(left, sql.Identifier(f"{prefix}{place}"), right, sql.Identifier(name))
        for place, name in enumerate(names, start=1)
    ]
    return sql.SQL(" AND ").join(pairs)


def map_of(graph: Graph, group: Group) -> sql.Identifier:
    """The map table of a group's key."""
    return sql.Identifier(graph.spec.work_schema, group.change.map_name)


def old_rows(graph: Graph, table: NewTable, source: Composable) -> sql.Composed:
    """SELECT of every row of `source`, which has the new table's columns, as the old table's row."""
    values = [_old_value(graph, table, column.name) for column in table.old.columns if not column.generated]
    return sql.SQL("SELECT {} FROM {} AS n{}").format(
        sql.SQL(", ").join(values), source, old_keys(graph, table)
    )


def _old_value(graph: Graph, table: NewTable, name: str) -> Composable:
    for number, group in enumerate(table.groups):
        if name in group.old:
            place = group.old.index(name) + 1
            return sql.SQL("{}.{} AS {}").format(
                group_alias(number), sql.Identifier(f"o{place}"), sql.Identifier(name)
            )
        if group.owner and name in group.change.key.drop:
            # What a dropped column of the parent held is kept in the map, in the order of the spec.
            place = list(group.change.key.drop).index(name) + 1
            return sql.SQL("{}.{} AS {}").format(
                group_alias(number), sql.Identifier(f"d{place}"), sql.Identifier(name)
            )
    value = sql.SQL("n.{}").format(sql.Identifier(name))
    changed = json_keys.backward(graph, table, name, sql.Identifier("n"), value)
    return value if changed is value else sql.SQL("{} AS {}").format(changed, sql.Identifier(name))


def old_keys(graph: Graph, table: NewTable) -> sql.Composed:
    """The joins that find each group's old values for a new row `n`."""
    return sql.Composed(
        [
            _inline_back(group, number) if group.change.inline else _mapped_back(graph, group, number)
            for number, group in enumerate(table.groups)
        ]
    )


def _inline_back(group: Group, number: int) -> Composable:
    key = group.change.key
    new = sql.Identifier(key.new[0].name)
    return sql.SQL(
        " CROSS JOIN LATERAL (SELECT CASE WHEN k.{new} IS NOT NULL THEN {inverse} END AS o1"
        " FROM (SELECT n.{column} AS {new}) AS k) AS {alias}"
    ).format(
        new=new,
        inverse=sql.SQL("{}::{}").format(
            expression(key.new[0].inverse) if key.new[0].inverse else sql.SQL("k.{}").format(new),
            Verbatim(group.change.old_types[0]),
        ),
        column=sql.Identifier(group.new[0]),
        alias=group_alias(number),
    )


def _mapped_back(graph: Graph, group: Group, number: int) -> Composable:
    return sql.SQL(" LEFT JOIN {map} AS {alias} ON {on}").format(
        map=map_of(graph, group),
        alias=group_alias(number),
        on=_equal(group_alias(number), "n", sql.Identifier("n"), group.new),
    )
