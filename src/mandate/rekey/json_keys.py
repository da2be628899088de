"""Keys that stand as strings in a jsonb column: expressions that replace them through the maps. Pure.

Forward a string that is a parent's old key becomes the new one, back the other way; one that is neither stays
what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mandate.postgres.connection import sql
from mandate.rekey.model import Change, Graph, NewTable
from mandate.rekey.spec import JsonKey

Composable = sql.Composable

# Types whose text no setting changes, so that an index may have it.
_STABLE_TEXT = ("uuid", "smallint", "integer", "bigint", "numeric", "text", "character")


def columns(graph: Graph, table: NewTable) -> frozenset[str]:
    """The columns of a table in which keys stand."""
    return frozenset(rule.column for rule in graph.spec.json_key if rule.table == str(table))


def change_of(graph: Graph, rule: JsonKey) -> Change | None:
    """The change of the key that a rule's strings are."""
    return next((each for each in graph.changes if each.key.table == rule.key), None)


def holders(graph: Graph, change: Change) -> Iterator[NewTable]:
    """The tables with a column in which keys of this change stand."""
    names = {rule.table for rule in graph.spec.json_key if rule.key == change.key.table}
    return (table for table in graph.tables if str(table) in names)


def forward(graph: Graph, table: NewTable, column: str, row: Composable, value: Composable) -> Composable:
    """`value`, which the old table's `column` has, as the new table has it. `row`: alias of the row."""
    for rule in _rules(graph, table, column):
        value = _replaced(_Lookup(graph, rule, row, forward=True), value, rule.steps)
    return value


def backward(graph: Graph, table: NewTable, column: str, row: Composable, value: Composable) -> Composable:
    """`value`, which the new table's `column` has, as the old table had it."""
    for rule in reversed(_rules(graph, table, column)):
        if rule.rename is None:
            value = _replaced(_Lookup(graph, rule, row, forward=False), value, rule.steps)
    return value


def unknown(graph: Graph, table: NewTable, rule: JsonKey) -> sql.Composed:
    """SELECT of (rows, strings, an example) where a string stands that is no key; `o` is the old table."""
    lookup = _Lookup(graph, rule, sql.Identifier("o"), forward=True)
    text = sql.SQL("(found.value #>> '{{}}')").format()
    return sql.SQL(
        "SELECT count(*), min({text}) AS example FROM {table} AS o"
        " CROSS JOIN LATERAL pg_catalog.jsonb_path_query(o.{column}, {path}::pg_catalog.jsonpath)"
        " AS found (value)"
        " WHERE pg_catalog.jsonb_typeof(found.value) = 'string' AND NOT EXISTS ({known})"
    ).format(
        text=text,
        table=table.old.identifier,
        column=sql.Identifier(rule.column),
        path=sql.Literal(rule.path),
        known=lookup.found(text),
    )


def indexes(graph: Graph, change: Change) -> list[sql.Composed]:
    """What the map of a change is searched by, there and back: one index for each."""
    found = {}
    for rule in graph.spec.json_key:
        if rule.key == change.key.table:
            lookup = _Lookup(graph, rule, sql.Identifier("o"), forward=True)
            for column in lookup.columns:
                if lookup.type_of(column).startswith(_STABLE_TEXT):
                    text = lookup.canonical(column, lookup.text_of(column))
                    found[text.as_string()] = sql.SQL("(({}))").format(text)
    return list(found.values())


def _rules(graph: Graph, table: NewTable, column: str) -> list[JsonKey]:
    return [rule for rule in graph.spec.json_key if rule.table == str(table) and rule.column == column]


@dataclass(frozen=True)
class _Lookup:
    """How a string is looked up in the map of its key."""

    graph: Graph
    rule: JsonKey
    row: Composable
    forward: bool

    @property
    def change(self) -> Change:
        return next(each for each in self.graph.changes if each.key.table == self.rule.key)

    @property
    def _old(self) -> str:
        """The map's column that the old table's strings are."""
        key, named = self.change.key, self.rule.old
        if named in key.drop:
            return f"d{list(key.drop).index(named) + 1}"
        return f"o{key.columns.index(named or key.columns[0]) + 1}"

    @property
    def _new(self) -> str:
        key = self.change.key
        named = self.rule.new or key.made[0].name
        return f"n{[column.name for column in key.new].index(named) + 1}"

    @property
    def columns(self) -> tuple[str, str]:
        """Columns of the map: what is looked for, and what takes its place."""
        return (self._old, self._new) if self.forward else (self._new, self._old)

    def type_of(self, column: str) -> str:
        """The type of a column of the map."""
        change, place = self.change, int(column[1:]) - 1
        if column.startswith("d"):
            return self.graph.owner(change).old.column(list(change.key.drop)[place]).type
        return (change.old_types if column.startswith("o") else change.new_types)[place]

    @staticmethod
    def text_of(column: str, alias: str = "") -> sql.Composed:
        """A column of the map as text."""
        names = (alias, column) if alias else (column,)
        return sql.SQL("{}::pg_catalog.text").format(sql.Identifier(*names))

    def found(self, text: Composable) -> sql.Composed:
        """SELECT of the string that takes the place of `text`, if there is one."""
        source, other = self.columns
        return sql.SQL(
            "SELECT {other} FROM {map} AS m WHERE {canonical} = {text}{same}"
            " ORDER BY {source} <> {other}, m.o1 LIMIT 1"
        ).format(
            other=self.text_of(other, "m"),
            source=self.text_of(source, "m"),
            map=sql.Identifier(self.graph.spec.work_schema, self.change.map_name),
            canonical=self.canonical(source, self.text_of(source, "m")),
            text=self.canonical(source, text),
            same=sql.Composed(list(self._same())),
        )

    def canonical(self, column: str, text: Composable) -> Composable:
        """One text for every way in which a UUID may be written."""
        if column.startswith("o") and self.type_of(column) == "uuid":
            return sql.SQL("pg_catalog.lower(pg_catalog.translate({}, '{{}}-', ''))").format(text)
        return text

    def _same(self) -> Iterator[sql.Composed]:
        key = self.change.key
        for theirs, ours in self.rule.same.items():
            place = [column.name for column in key.new].index(theirs) + 1
            yield sql.SQL(" AND m.{} = {}.{}").format(
                sql.Identifier(f"n{place}"), self.row, sql.Identifier(ours)
            )


def _replaced(lookup: _Lookup, value: Composable, steps: Sequence[str], depth: int = 0) -> Composable:
    """`value` with the strings at `steps` replaced; x<depth> and e<depth> are aliases of the level."""
    x, e = sql.Identifier(f"x{depth}"), sql.Identifier(f"e{depth}")
    if not steps:
        return _string(lookup, value, x)
    first, rest = steps[0], steps[1:]
    if first == "*":
        changed: Composable = sql.SQL(
            "(SELECT coalesce(pg_catalog.jsonb_agg({inner} ORDER BY {e}.place), '[]')"
            " FROM pg_catalog.jsonb_array_elements({x}.value) WITH ORDINALITY AS {e} (value, place))"
        ).format(inner=_replaced(lookup, sql.SQL("{}.value").format(e), rest, depth + 1), e=e, x=x)
        return _where(x, value, sql.SQL("pg_catalog.jsonb_typeof({}.value) = 'array'").format(x), changed)
    member = sql.SQL("{}.value -> {}").format(x, sql.Literal(first))
    if not rest and lookup.rule.rename is not None:
        changed = _renamed(lookup, x, first, lookup.rule.rename)
    else:
        changed = sql.SQL("pg_catalog.jsonb_set({}.value, {}, {})").format(
            x, sql.Literal([first]), _replaced(lookup, member, rest, depth + 1)
        )
    there = sql.SQL("pg_catalog.jsonb_typeof({x}.value) = 'object' AND {x}.value ? {name}").format(
        x=x, name=sql.Literal(first)
    )
    return _where(x, value, there, changed)


def _where(x: sql.Identifier, value: Composable, condition: Composable, changed: Composable) -> sql.Composed:
    return sql.SQL(
        "(SELECT CASE WHEN {} THEN {} ELSE {x}.value END FROM (SELECT {} AS value) AS {x})"
    ).format(condition, changed, value, x=x)


def _string(lookup: _Lookup, value: Composable, x: sql.Identifier) -> sql.Composed:
    text = sql.SQL("({}.value #>> '{{}}')").format(x)
    found = sql.SQL("coalesce(pg_catalog.to_jsonb(({})), {}.value)").format(lookup.found(text), x)
    return _where(x, value, sql.SQL("pg_catalog.jsonb_typeof({}.value) = 'string'").format(x), found)


def _renamed(lookup: _Lookup, x: sql.Identifier, name: str, to: str) -> sql.Composed:
    """Without the member, and with the other one where its string is a key."""
    text = sql.SQL("({}.value ->> {})").format(x, sql.Literal(name))
    return sql.SQL(
        "({x}.value - {name}) || coalesce((SELECT pg_catalog.jsonb_build_object({to}::pg_catalog.text, f.key)"
        " FROM ({found}) AS f (key)), '{{}}')"
    ).format(x=x, name=sql.Literal(name), to=sql.Literal(to), found=lookup.found(text))
