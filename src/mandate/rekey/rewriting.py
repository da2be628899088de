"""Definitions that PostgreSQL wrote, with the new tables' names and columns; read by its own grammar."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mandate.errors import CheckFailed
from mandate.postgres import grammar
from mandate.rekey.model import NewTable
from mandate.rekey.spec import NewColumn as KeyColumn

Place = tuple[str, str]

# Prefix of the operator classes that are made for a type.
_CLASS_PREFIXES = {
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "uuid": "uuid",
    "numeric": "numeric",
    "text": "text",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "date": "date",
    "bytea": "bytea",
}
TEXT = ("text", "character varying", "character")

_SCHEMA = re.compile(rb'\A(?:"(?:[^"]|"")*"|[^".]+)')


class CannotRewrite(CheckFailed):
    """A definition needs a column that goes away, in a way that has no equivalent."""

    code = "cannot-rewrite"


def successors(table: NewTable) -> dict[str, tuple[str, ...]]:
    """Old column -> the columns that stand for it, where that is not itself alone; () when it is gone.

    A group's columns become its new ones together; a column that the spec drops and whose value is a new
    column as it is became that one.
    """
    found: dict[str, tuple[str, ...]] = {}
    names = {column.name for column in table.columns}
    for column in table.old.columns:
        group = table.group_of(column.name)
        if group is not None:
            found[column.name] = group.new
        elif column.name not in names:
            found[column.name] = tuple(_moved(table, column.name))
    return {name: to for name, to in found.items() if to != (name,)}


def _moved(table: NewTable, name: str) -> Iterator[str]:
    for group in table.groups:
        if group.owner and name in group.change.key.drop:
            yield from (new.name for new in group.change.key.new if moved(new) == name)


def moved(column: KeyColumn) -> str | None:
    """The parent's old column that a new key's column is, under another name."""
    return column.replaces or bare(column.expression)


def bare(expression: str | None) -> str | None:
    """The column that an expression is, when it is nothing else."""
    if expression is None:
        return None
    node = _target(grammar.load().parse(f"SELECT {expression}"))
    return _last(node.column_ref) if node.WhichOneof("node") == "column_ref" else None


def is_cast(expression: str, column: str) -> bool:
    """Whether an expression is the column with casts around it and nothing else."""
    node = _target(grammar.load().parse(f"SELECT {expression}"))
    while node.WhichOneof("node") == "type_cast":
        node = node.type_cast.arg
    return node.WhichOneof("node") == "column_ref" and _last(node.column_ref) == column


def renamed(names: Iterable[str], changed: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Column names, with those that stand for them; each once, in order."""
    return tuple(dict.fromkeys(new for name in names for new in changed.get(name, (name,))))


class _Rewriter:
    """Renames the columns of one table in a tree, in place. Raises CannotRewrite, which names `what`."""

    def __init__(self, table: NewTable | None, what: str) -> None:
        self.table = table
        self.changed = {} if table is None else successors(table)
        self.what = what
        self.types = {} if table is None else {column.name: column.type for column in table.columns}

    def rewrite(self, message: Any) -> None:
        """Rename below a message; a null test inside a Node may become several."""
        if message.DESCRIPTOR.name == "Node" and message.WhichOneof("node") == "null_test":
            if self._null_test(message):
                return
        elif message.DESCRIPTOR.name == "ColumnRef":
            self._column(message)
        for child in _children(message):
            self.rewrite(child)

    def _null_test(self, node: Any) -> bool:
        """x IS [NOT] NULL, where x became several: all of those that were NULL with it."""
        arg = node.null_test.arg
        name = self._own(arg.column_ref) if arg.WhichOneof("node") == "column_ref" else None
        if name is None or name not in self.changed or len(self.changed[name]) == 1:
            return False
        names = self._fresh(name) or self.changed[name]
        if not names:
            raise self._gone(name)
        tests = [_with_column(node, each) for each in names]
        if len(tests) == 1:
            node.CopyFrom(tests[0])
        else:
            node.bool_expr.boolop = grammar.load().pg_query_pb2.AND_EXPR
            node.bool_expr.args.extend(tests)
        return True

    def _fresh(self, name: str) -> tuple[str, ...]:
        """Of the successors, those that the table did not have: they are NULL when `name` was."""
        group = None if self.table is None else self.table.group_of(name)
        if group is None:
            return ()
        return tuple(new for new, kept in zip(group.new, group.kept, strict=True) if not kept)

    def _own(self, reference: Any) -> str | None:
        """The column of this table that a reference means. Inside a subquery references are qualified."""
        names = [field.string.sval for field in reference.fields if field.WhichOneof("node") == "string"]
        if len(names) != len(reference.fields) or len(names) > 2:
            return None
        table = "" if self.table is None else self.table.old.name
        if len(names) == 2 and names[0] not in (table, "old", "new"):
            return None
        return str(names[-1])

    def _column(self, reference: Any) -> None:
        name = self._own(reference)
        if name is None or name not in self.changed:
            return
        new = self.changed[name]
        if len(new) != 1:
            raise self._gone(name)
        reference.fields[-1].string.sval = new[0]

    def _gone(self, name: str) -> CannotRewrite:
        return CannotRewrite(f"{self.what} uses column {name}, which goes away")

    def elements(self, params: Any, without: Iterable[str] = ()) -> dict[int, int]:
        """Index columns in place, each by its successors, none twice. Expressions: new number -> old."""
        made: list[Any] = []
        seen = set(without)
        places: dict[int, int] = {}
        for number, node in enumerate(list(params), start=1):
            if not node.index_elem.name:
                self.rewrite(node.index_elem.expr)
                made.append(_copy(node))
                places[len(made)] = number
            for new in self.element(node, seen):
                seen.add(new.index_elem.name)
                made.append(new)
        _set(params, made)
        return places

    def element(self, node: Any, seen: Iterable[str] = ()) -> list[Any]:
        """An index column as its successors."""
        old = node.index_elem.name
        if not old:
            return []
        names = [name for name in renamed([old], self.changed) if name not in seen]
        return [self._element(node, old, name) for name in names]

    def _element(self, node: Any, old: str, name: str) -> Any:
        made = _copy(node)
        made.index_elem.name = name
        if self.table is not None:
            before, after = self.table.old.column(old).type, self.types[name]
            if before != after:
                _retype(made.index_elem, before, after)
        return made


def _retype(element: Any, before: str, after: str) -> None:
    """The operator class that does for the new type what this one did; none when there is none."""
    is_text = after.startswith(TEXT)
    if not is_text:
        element.ClearField("collation")
    if not element.opclass:
        return
    name = element.opclass[-1].string.sval
    if before.startswith(TEXT) and is_text:
        return
    old, new = _CLASS_PREFIXES.get(before), _CLASS_PREFIXES.get(after)
    if old and new and name.startswith(f"{old}_"):
        element.opclass[-1].string.sval = f"{new}{name.removeprefix(old)}"
    else:
        element.ClearField("opclass")
        element.ClearField("opclassopts")


def _children(message: Any) -> Iterator[Any]:
    """The messages directly below one."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            yield from [value] if hasattr(value, "ListFields") else list(value)


def _all(message: Any) -> Iterator[Any]:
    yield message
    for child in _children(message):
        yield from _all(child)


def _copy(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made


def _set(repeated: Any, items: Iterable[Any]) -> None:
    kept = list(items)
    del repeated[:]
    repeated.extend(kept)


def _last(reference: Any) -> str | None:
    field = reference.fields[-1]
    return str(field.string.sval) if field.WhichOneof("node") == "string" else None


def _is_column(message: Any) -> bool:
    return bool(message.DESCRIPTOR.name == "Node" and message.WhichOneof("node") == "column_ref")


def _with_column(node: Any, name: str) -> Any:
    made = _copy(node)
    made.null_test.arg.column_ref.fields[-1].string.sval = name
    return made


def _target(tree: Any) -> Any:
    return tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val


def _text(message: Any) -> bytes:
    """A tree without the places of its words: equal for trees that mean the same."""
    copy = _copy(message)
    for each in _all(copy):
        if "location" in each.DESCRIPTOR.fields_by_name:
            each.location = 0
    done: bytes = copy.SerializeToString(deterministic=True)
    return done


def expression(table: NewTable, text: str, what: str) -> str:
    """An expression over the old table's columns, over the new one's; as it is when nothing changes in it.

    Raises CannotRewrite, which names `what`.
    """
    tree = grammar.load().parse(f"SELECT ({text})")
    before = _text(tree)
    _Rewriter(table, what).rewrite(tree)
    if _text(tree) == before:
        return text
    done: str = grammar.load().deparse(tree)
    return done.removeprefix("SELECT ")


def substituted(text: str, column: str, value: str) -> str:
    """An expression with another one in place of a column."""
    tree = grammar.load().parse(f"SELECT ({text})")
    replacement = _target(grammar.load().parse(f"SELECT ({value})"))
    for node in list(_all(tree)):
        if _is_column(node) and _last(node.column_ref) == column:
            node.CopyFrom(replacement)
    done: str = grammar.load().deparse(tree)
    return done.removeprefix("SELECT ")


@dataclass(frozen=True)
class IndexDefinition:
    """CREATE INDEX for a new table; `changed`: not as before. `signature` is equal where they do the same.

    `places`: number of an index column that is an expression -> its number before.
    """

    create: str
    signature: bytes
    changed: bool
    empty: bool
    places: Mapping[int, int]


def index(
    table: NewTable | None,
    text: str,
    place: Place,
    what: str,
    tablespace: str | None = None,
    columns: Sequence[str] = (),
) -> IndexDefinition:
    """An index of the old table (None: of a view) as one of the new one at `place`. Raises CannotRewrite.

    `columns`: of the new one, instead of what the old columns become.
    """
    tree = grammar.load().parse(text)
    statement = tree.stmts[0].stmt.index_stmt
    rewriter = _Rewriter(table, what)
    before = _text(statement)
    if columns:
        _set(statement.index_params, [_plain(statement.index_params[0], name) for name in columns])
        places: dict[int, int] = {}
    else:
        places = rewriter.elements(statement.index_params)
    if _text(statement) == before:
        rewriter.elements(statement.index_including_params)
    else:
        keys = {node.index_elem.name for node in statement.index_params}
        rewriter.elements(statement.index_including_params, keys)
    if statement.HasField("where_clause"):
        rewriter.rewrite(statement.where_clause)
    changed = _text(statement) != before
    statement.relation.schemaname, statement.relation.relname = place
    if tablespace:
        statement.table_space = tablespace
    create = grammar.load().deparse(tree)
    return IndexDefinition(create, _signature(statement), changed, not statement.index_params, places)


def _plain(node: Any, name: str) -> Any:
    """An index column that is this column, with nothing said about it."""
    made = type(node)()
    made.index_elem.name = name
    made.index_elem.ordering = node.index_elem.ordering
    made.index_elem.nulls_ordering = node.index_elem.nulls_ordering
    return made


def _signature(statement: Any) -> bytes:
    """What an index does, whatever it is called and whether it is unique."""
    copy = _copy(statement)
    for name in ("idxname", "unique", "nulls_not_distinct", "options", "table_space"):
        copy.ClearField(name)
    return _text(copy)


def exclusion(table: NewTable, text: str, what: str) -> str:
    """An exclusion constraint, or a key WITHOUT OVERLAPS, over the new columns. Raises CannotRewrite."""
    prefix = "ALTER TABLE t ADD CONSTRAINT c "
    tree = grammar.load().parse(prefix + text)
    command = tree.stmts[0].stmt.alter_table_stmt.cmds[0].alter_table_cmd
    constraint = getattr(command, "def").constraint
    rewriter = _Rewriter(table, what)
    names = [node.string.sval for node in constraint.keys]
    _set_strings(constraint.keys, renamed(names, rewriter.changed))
    made: list[Any] = []
    for node in list(constraint.exclusions):
        element, operator = node.list.items
        if not element.index_elem.name:
            rewriter.rewrite(element.index_elem.expr)
            made.append(_copy(node))
            continue
        new = rewriter.element(element)
        if not new or (len(new) > 1 and operator.list.items[-1].string.sval != "="):
            raise CannotRewrite(f"{what} uses column {element.index_elem.name}, which goes away")
        made += [_pair(node, each, operator) for each in new]
    _set(constraint.exclusions, made)
    if constraint.HasField("where_clause"):
        rewriter.rewrite(constraint.where_clause)
    done: str = grammar.load().deparse(tree)
    return done.removeprefix(prefix)


def _pair(node: Any, element: Any, operator: Any) -> Any:
    made = _copy(node)
    _set(made.list.items, [element, _copy(operator)])
    return made


def trigger(table: NewTable | None, text: str, moved: Mapping[Place, Place], what: str) -> str:
    """A trigger's definition with its tables and columns as they are called in the new place.

    `table`: whose columns it names; None for a view's trigger. Raises CannotRewrite.
    """
    tree = grammar.load().parse(text)
    statement = tree.stmts[0].stmt.create_trig_stmt
    if table is not None:
        rewriter = _Rewriter(table, what)
        names = [node.string.sval for node in statement.columns]
        new = renamed(names, rewriter.changed)
        if names and not new:
            raise CannotRewrite(f"{what} fires on columns that go away: {', '.join(names)}")
        _set_strings(statement.columns, new)
        if statement.HasField("when_clause"):
            rewriter.rewrite(statement.when_clause)
    _move(tree, moved)
    done: str = grammar.load().deparse(tree)
    return done


def _set_strings(nodes: Any, names: Iterable[str]) -> None:
    kept = list(names)
    del nodes[:]
    for name in kept:
        nodes.add().string.sval = name


def statistics(table: NewTable, text: str, place: Place, schema: str, what: str) -> str | None:
    """CREATE STATISTICS for the new table, its object in `schema`; None when too few columns are left."""
    tree = grammar.load().parse(text)
    statement = tree.stmts[0].stmt.create_stats_stmt
    rewriter = _Rewriter(table, what)
    columns = [node.stats_elem.name for node in statement.exprs if node.stats_elem.name]
    others = [node for node in statement.exprs if not node.stats_elem.name]
    for node in others:
        rewriter.rewrite(node.stats_elem.expr)
    kept = [_copy(node) for node in others]
    new = renamed(columns, rewriter.changed)
    del statement.exprs[:]
    for name in new:
        statement.exprs.add().stats_elem.name = name
    statement.exprs.extend(kept)
    if not statement.exprs or (len(statement.exprs) == 1 and new):
        return None
    _move_statistics(statement, place, schema)
    done: str = grammar.load().deparse(tree)
    return done


def _move_statistics(statement: Any, place: Place, schema: str) -> None:
    statement.defnames[0].string.sval = schema
    relation = statement.relations[0].range_var
    relation.schemaname, relation.relname = place


def query(text: str, moved: Mapping[Place, Place]) -> str:
    """A query or function over relations, and their row types, in their new places.

    All of the text stays but their schemas.
    """
    found = dict(_named(grammar.load().parse(text)))
    done = text.encode()
    for location, named in sorted(found.items(), reverse=True):
        place = moved.get(named)
        if place is not None:
            before, after = done[:location], done[location:]
            done = before + _quoted(place[0]).encode() + _SCHEMA.sub(b"", after, count=1)
    return done.decode().rstrip("; \n")


def _named(tree: Any) -> Iterator[tuple[int, Place]]:
    """Where a tree names relations and types with their schema."""
    for node in _all(tree):
        if node.DESCRIPTOR.name == "RangeVar":
            yield node.location, (node.schemaname, node.relname)
        elif node.DESCRIPTOR.name == "TypeName" and len(node.names) == 2:
            schema, name = (each.string.sval for each in node.names)
            yield node.location, (schema, name)


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _move(tree: Any, moved: Mapping[Place, Place]) -> None:
    for node in _all(tree):
        if node.DESCRIPTOR.name == "RangeVar" and (node.schemaname, node.relname) in moved:
            node.schemaname, node.relname = moved[node.schemaname, node.relname]
