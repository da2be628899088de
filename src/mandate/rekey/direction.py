"""The two ways rows go, as data: forward (old table -> shadow) and back (new table -> retained table).

Forward, the source is the old table in its place and the destination its shadow; in the reverse window the
new table is in that place and the retained one is the destination. Everything that keeps two tables in
step is written once against this. A group's values on the source's side are looked up in its map by the
source's prefix (o or n) and found under the destination's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mandate.errors import CheckFailed
from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey import transform
from mandate.rekey.model import Change, Graph, Group, NewTable

Composable = sql.Composable

# Values have one text in every session that writes or reads keys, whatever the server is set to.
PLAIN_TEXT = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
}


@dataclass(frozen=True)
class Direction:
    """One of FORWARD and BACK."""

    name: str
    log_name: str

    @property
    def forward(self) -> bool:
        return self.name == "forward"

    @property
    def prefixes(self) -> tuple[str, str]:
        """Of a map's columns: the source's key, the destination's."""
        return ("o", "n") if self.forward else ("n", "o")

    # -- tables --------------------------------------------------------------------------------------

    def log(self, graph: Graph) -> sql.Identifier:
        """Where capture writes the keys of this direction."""
        return sql.Identifier(graph.spec.work_schema, self.log_name)

    def source(self, table: NewTable) -> sql.Identifier:
        """Where the rows come from: the table that clients use."""
        return table.old.identifier

    def destination(self, graph: Graph, table: NewTable) -> sql.Identifier:
        """The table that is kept in step."""
        base = graph.spec.shadow_schema if self.forward else graph.spec.retained_schema
        return sql.Identifier(graph.aside(base, table.old.schema), table.old.name)

    # -- columns -------------------------------------------------------------------------------------

    def source_key(self, table: NewTable) -> tuple[str, ...]:
        """The source's primary key."""
        return table.old.key if self.forward else table.key

    def destination_key(self, table: NewTable) -> tuple[str, ...]:
        """The destination's primary key."""
        return table.key if self.forward else table.old.key

    def logged(self, table: NewTable) -> tuple[str, ...]:
        """What capture writes for a row: the primary key, then a parent's own key where it is another.

        And the primary key that the spec gives the table: its columns are in both.
        """
        own = [name for group in table.groups if group.owner for name in self.source_columns(group)]
        also = [*table.old.key, *table.primary_key] if table.primary_key else []
        return tuple(dict.fromkeys([*self.source_key(table), *own, *also]))

    def source_columns(self, group: Group) -> tuple[str, ...]:
        """The group's columns in the source."""
        return group.old if self.forward else group.new

    def destination_columns(self, group: Group) -> tuple[str, ...]:
        """The group's columns in the destination."""
        return group.new if self.forward else group.old

    def source_type(self, table: NewTable, name: str) -> str:
        """Type of a column of the source. Raises KeyError."""
        return table.old.column(name).type if self.forward else _new_types(table)[name]

    def destination_types(self, table: NewTable) -> dict[str, str]:
        """The destination's columns that can be written, in order, with their types."""
        if not self.forward:
            return {column.name: column.type for column in table.old.columns if not column.generated}
        generated = {column.name for column in table.old.columns if column.generated}
        return {c.name: c.type for c in table.columns if c.source is None or c.source not in generated}

    # -- rows ----------------------------------------------------------------------------------------

    @property
    def alias(self) -> sql.Identifier:
        """Alias of the source in `rows`."""
        return sql.Identifier("o" if self.forward else "n")

    def rows(self, graph: Graph, table: NewTable, source: Composable | None = None) -> sql.Composed:
        """SELECT of the source's rows, or of those of `source`, as the destination's.

        Its FROM is the last clause: the source is `alias`, the groups are g0, g1, ...
        """
        if self.forward:
            return transform.new_rows(graph, table, source)
        return transform.old_rows(graph, table, source or self.source(table))

    def insert(self, graph: Graph, table: NewTable, rows: Composable) -> sql.Composed:
        """INSERT of `rows` (from `rows()`, conditions added) into the destination."""
        columns = transform.column_list(self.destination_types(table))
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ({}) AS r").format(
            self.destination(graph, table), columns, columns, rows
        )

    def joins(self, graph: Graph, table: NewTable) -> sql.Composed:
        """The joins of `rows`: one relation for each group, g0, g1, ..."""
        return (transform.new_keys if self.forward else transform.old_keys)(graph, table)

    def keys(self, graph: Graph, table: NewTable, bound: int | None = None) -> sql.Composed:
        """A relation of the distinct logged keys of a table, typed; `bound`: of log rows up to that id."""
        types = [Verbatim(self.source_type(table, name)) for name in self.logged(table)]
        columns = [
            sql.SQL("l.key[{}]::{} AS {}").format(sql.Literal(place), type_, sql.Identifier(name))
            for place, (name, type_) in enumerate(zip(self.logged(table), types, strict=True), start=1)
        ]
        return sql.SQL("(SELECT DISTINCT {} FROM {} AS l WHERE l.tab = {} AND l.key IS NOT NULL{})").format(
            sql.SQL(", ").join(columns),
            self.log(graph),
            sql.Literal(table.old.oid),
            up_to(bound),
        )

    def destination_keys(self, graph: Graph, table: NewTable, keys: Composable) -> sql.Composed:
        """SELECT of the destination's primary keys for a relation of the source's keys.

        By the maps as they are; a key that is in no map has no row in the destination.
        """
        joins, columns = [], []
        for name in self.destination_key(table):
            group, place = self._found_in(table, name)
            columns.append(_key_column(name, group, place, self.prefixes[1]))
            if group is not None and group not in joins:
                joins.append(group)
        return sql.SQL("SELECT {} FROM {} AS k{}").format(
            sql.SQL(", ").join(columns),
            keys,
            sql.Composed([self._key_join(graph, table, group) for group in joins]),
        )

    def _found_in(self, table: NewTable, name: str) -> tuple[int | None, int]:
        """The group and place whose value a destination's key column has; (None, 0): the source's own."""
        for number, group in enumerate(table.groups):
            there = self.destination_columns(group)
            if name in there and not self._is_kept(table, group, name):
                return number, there.index(name)
        return None, 0

    def _is_kept(self, table: NewTable, group: Group, name: str) -> bool:
        """A column that is the same in both tables, and that the source's key has."""
        return name in self.source_key(table) and name not in self.source_columns(group)

    def _key_join(self, graph: Graph, table: NewTable, number: int) -> Composable:
        group = table.groups[number]
        alias = transform.group_alias(number)
        if group.change.inline:
            return sql.SQL(" CROSS JOIN LATERAL ({}) AS {}").format(self._inline(group), alias)
        return sql.SQL(" JOIN {} AS {} ON {}").format(
            transform.map_of(graph, group),
            alias,
            equal(
                alias, place_names(group, self.prefixes[0]), sql.Identifier("k"), self.source_columns(group)
            ),
        )

    def _inline(self, group: Group) -> Composable:
        key = group.change.key
        column = sql.Identifier(self.source_columns(group)[0])
        if self.forward:
            text, name = key.new[0].expression, key.columns[0]
            type_, made = group.change.new_types[0], "n1"
        else:
            text, name = key.new[0].inverse, key.new[0].name
            type_, made = group.change.old_types[0], "o1"
        value = transform.expression(text) if text else sql.SQL("x.{}").format(sql.Identifier(name))
        return sql.SQL("SELECT {}::{} AS {} FROM (SELECT k.{} AS {}) AS x").format(
            value, Verbatim(type_), sql.Identifier(made), column, sql.Identifier(name)
        )

    def __str__(self) -> str:
        return self.name


FORWARD = Direction("forward", "log")
BACK = Direction("back", "back_log")


def _new_types(table: NewTable) -> dict[str, str]:
    return {column.name: column.type for column in table.columns}


def _key_column(name: str, group: int | None, place: int, prefix: str) -> Composable:
    if group is None:
        return sql.SQL("k.{}").format(sql.Identifier(name))
    value = sql.SQL("{}.{}").format(transform.group_alias(group), sql.Identifier(f"{prefix}{place + 1}"))
    return sql.SQL("{} AS {}").format(value, sql.Identifier(name))


def place_names(group: Group, prefix: str) -> tuple[str, ...]:
    """o1, o2, ... or n1, n2, ...: columns of the group's map."""
    return numbered(group.change, prefix)


def numbered(change: Change, prefix: str) -> tuple[str, ...]:
    """The columns of a change's map with prefix o (old key), n (new key) or d (dropped columns)."""
    sizes = {"o": len(change.old_types), "n": len(change.new_types), "d": len(change.key.drop)}
    return tuple(f"{prefix}{place}" for place in range(1, sizes[prefix] + 1))


def equal(
    left: Composable, left_names: Sequence[str], right: Composable, right_names: Sequence[str]
) -> sql.Composed:
    """left.a = right.x AND left.b = right.y ..."""
    return sql.SQL(" AND ").join(
        sql.SQL("{}.{} = {}.{}").format(left, sql.Identifier(one), right, sql.Identifier(other))
        for one, other in zip(left_names, right_names, strict=True)
    )


def qualified(alias: Composable, names: Sequence[str]) -> sql.Composed:
    """alias.a, alias.b, ..."""
    return sql.SQL(", ").join(sql.SQL("{}.{}").format(alias, sql.Identifier(name)) for name in names)


def text_array(alias: Composable, names: Sequence[str]) -> sql.Composed:
    """ARRAY[alias.a::text, ...]: how capture writes a key."""
    texts = [sql.SQL("{}.{}::pg_catalog.text").format(alias, sql.Identifier(name)) for name in names]
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(texts))


def up_to(bound: int | None) -> Composable:
    """Condition on log rows l."""
    return sql.SQL("") if bound is None else sql.SQL(" AND l.id <= {}").format(sql.Literal(bound))


def mapped(graph: Graph) -> Iterator[Change]:
    """The changes whose new keys are found through a map table."""
    return (change for change in graph.changes if not change.inline)


def settle(session: Session, *, lazily: bool = False) -> None:
    """Give the running transaction what work on keys relies on.

    `lazily`: its COMMIT need not wait for the disk. For work that is undone by a crash together with the
    record that it was done.
    """
    settings = {**PLAIN_TEXT, "row_security": "off", "search_path": ""}
    if lazily:
        settings["synchronous_commit"] = "off"
    session.execute(
        "SELECT pg_catalog.set_config(s.name, s.value, true)"
        " FROM unnest(%s::text[], %s::text[]) AS s (name, value)",
        (list(settings), list(settings.values())),
    )


def require_whole_keys(graph: Graph) -> None:
    """Raise CheckFailed where a primary key holds a part of a key that changes: rows could not be found."""
    for table in graph.tables:
        for group in table.groups:
            held = set(group.old) & set(table.old.key)
            if held and held != set(group.old):
                raise CheckFailed(
                    f"the primary key of {table} has {', '.join(sorted(held))} but not all of"
                    f" {', '.join(group.old)}, which change together",
                    hint="give the table a primary key with all of them, or with none",
                )
