"""The parts of a spec beside its keys, tried on the database: queries, JSON, indexes, foreign keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mandate.errors import UsageError
from mandate.postgres import grammar
from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey import json_keys, maps, probing
from mandate.rekey.model import Change, Graph, NewTable, Table
from mandate.rekey.spec import ForeignKey, Index, JsonKey

_TAKEN = (Path(__file__).parent / "sql" / "discover_taken.sql").read_bytes()
_COLUMNS = (Path(__file__).parent / "sql" / "discover_columns.sql").read_bytes()
_IS_KEY = (Path(__file__).parent / "sql" / "discover_is_key.sql").read_bytes()


def require_tables(graph: Graph) -> None:
    """Raise UsageError for a part about a table that the change does not have."""
    spec = graph.spec
    named = [
        *((f"check[{n}]", each.table) for n, each in enumerate(spec.check)),
        *((f"index[{n}]", each.table) for n, each in enumerate(spec.index)),
        *((f"foreign_key[{n}]", each.table) for n, each in enumerate(spec.foreign_key)),
        *((f"json[{n}]", each.table) for n, each in enumerate(spec.json_key)),
    ]
    names = sorted(map(str, graph.tables))
    for where, name in named:
        if name not in names:
            raise UsageError(
                f"{where}.table: {name} holds no key that changes",
                hint=f"give one of these, as schema.table: {', '.join(names)}",
            )


def require(session: Session, graph: Graph) -> None:
    """Raise UsageError naming the first of these parts that cannot be meant."""
    for change in graph.changes:
        if change.key.query is not None:
            _require_query(session, graph, change, change.key.query)
    for number, rule in enumerate(graph.spec.json_key):
        _require_json(session, graph, rule, f"json[{number}]")
    for number, index in enumerate(graph.spec.index):
        _require_index(session, graph, index, f"index[{number}]")
    for number, key in enumerate(graph.spec.foreign_key):
        _require_foreign_key(session, graph, key, f"foreign_key[{number}]")


def _held(graph: Graph, name: str) -> NewTable | None:
    return next((table for table in graph.tables if str(table) == name), None)


# -- queries -----------------------------------------------------------------------------------------


def _require_query(session: Session, graph: Graph, change: Change, text: str) -> None:
    where = f"key[{change.number - 1}].query"
    wanted = [*change.key.columns, *(column.name for column in change.key.made)]
    query = sql.SQL("SELECT * FROM ({}\n) AS q LIMIT 0").format(Verbatim(text))
    found = probing.ask(session, query, where)
    if len(found) != len(wanted):
        raise UsageError(
            f"{where}: it has {len(found)} columns, and {len(wanted)} are needed",
            hint=f"these, in this order: {', '.join(wanted)}",
        )
    rows = maps.current(graph, change, typed=True)
    probing.ask(session, sql.SQL("SELECT * FROM ({}) AS c LIMIT 0").format(rows), where)


# -- keys in JSON ------------------------------------------------------------------------------------


def _require_json(session: Session, graph: Graph, rule: JsonKey, where: str) -> None:
    table, change = _held(graph, rule.table), json_keys.change_of(graph, rule)
    if table is None or change is None:
        raise UsageError(f"{where}.key: {rule.key} is the table of no [[key]]")
    _require_json_column(table, rule, where)
    if change.inline:
        raise UsageError(
            f"{where}: the key of {rule.key} is made from the old value alone, and has no map",
            hint="give the key old_default, then it has one",
        )
    _require_names(change, rule, where)
    for theirs, ours in rule.same.items():
        at = f"{where}.same.{theirs}"
        column = _kept_column(table, ours, at)
        place = [new.name for new in change.key.new].index(theirs)
        probing.comparable(session, change.new_types[place], column, at)


def _require_json_column(table: NewTable, rule: JsonKey, where: str) -> None:
    type_ = _kept_column(table, rule.column, f"{where}.column")
    if type_ != "jsonb":
        raise UsageError(
            f"{where}.column: {table}.{rule.column} is {type_}, not jsonb",
            hint="keys are replaced in columns of type jsonb",
        )
    if table.old.column(rule.column).generated:
        raise UsageError(
            f"{where}.column: {table}.{rule.column} is generated",
            hint="name the column that it is generated from",
        )


def _kept_column(table: NewTable, name: str, where: str) -> str:
    """Type of a column that the table has before and after."""
    column = next((each for each in table.columns if each.name == name and each.source == name), None)
    if column is None:
        raise UsageError(
            f"{where}: {table} has no column {name} before and after the change",
            hint="name a column that stays as it is",
        )
    return column.type


def _require_names(change: Change, rule: JsonKey, where: str) -> None:
    key = change.key
    new = [column.name for column in key.new]
    _require_one_of(f"{where}.old", [rule.old], [*key.columns, *key.drop])
    _require_one_of(f"{where}.new", [rule.new], new)
    _require_one_of(f"{where}.same", list(rule.same), new)
    if (rule.old is None and len(key.columns) > 1) or (rule.new is None and len(key.made) != 1):
        raise UsageError(
            f"{where}: the key of {rule.key} has several columns",
            hint="old and new say which of them the strings are, same how the others are found",
        )


def _require_one_of(where: str, names: Sequence[str | None], known: Sequence[str]) -> None:
    for name in names:
        if name is not None and name not in known:
            raise UsageError(f"{where}: {name!r} is not one of {', '.join(sorted(known))}")


# -- indexes -----------------------------------------------------------------------------------------


def _require_index(session: Session, graph: Graph, index: Index, where: str) -> None:
    table = _held(graph, index.table)
    assert table is not None, "require_tables was asked before"
    statement = _index_statement(index, f"{where}.on")
    source = probing.row(table, old=False)
    for text in _expressions(statement):
        query = sql.SQL("SELECT FROM {} WHERE ({}) IS NULL").format(source, text)
        probing.ask(session, query, f"{where}.on")
    _require_free(session, graph, table.old, index.name, f"{where}.name")


def _index_statement(index: Index, where: str) -> Any:
    """The statement that `on` makes, which must be one CREATE INDEX. Raises UsageError."""
    language = grammar.load()
    try:
        found = language.parse(f"CREATE INDEX i ON t {index.on}").stmts
    except language.PgQueryError as error:
        raise UsageError(f"{where}: {index.on!r} is not an index: {error}", hint=_ON) from None
    statement = found[0].stmt.index_stmt
    if (
        len(found) != 1
        or ";" in index.on
        or statement.relation.relname != "t"
        or statement.relation.schemaname
    ):
        raise UsageError(f"{where}: {index.on!r} is more than an index", hint=_ON)
    return statement


_ON = "it is what follows the table's name in CREATE INDEX, such as (a, lower(b)) WHERE a > 0"


def _expressions(statement: Any) -> list[sql.Composable]:
    """Everything in an index that reads columns."""
    found: list[sql.Composable] = []
    for node in [*statement.index_params, *statement.index_including_params]:
        element = node.index_elem
        found.append(sql.Identifier(element.name) if element.name else _deparsed(element.expr))
    if statement.HasField("where_clause"):
        found.append(_deparsed(statement.where_clause))
    return found


def _deparsed(node: Any) -> sql.Composable:
    language = grammar.load()
    tree = language.parse("SELECT 1")
    tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val.CopyFrom(node)
    return Verbatim(language.deparse(tree).removeprefix("SELECT "))


def _require_free(session: Session, graph: Graph, table: Table, name: str, where: str) -> None:
    """Raise UsageError when something that does not leave with the tables has the name."""
    oids = [each.old.oid for each in graph.tables]
    taken = session.value(_TAKEN, {"schema": table.schema, "name": name, "tables": oids})
    if taken is not None:
        raise UsageError(f"{where}: {table.schema} has {taken} of that name", hint="give it another name")


# -- foreign keys ------------------------------------------------------------------------------------


def _require_foreign_key(session: Session, graph: Graph, key: ForeignKey, where: str) -> None:
    child, parent = _held(graph, key.table), _held(graph, key.references)
    assert child is not None, "require_tables was asked before"
    here = {column.name: column.type for column in child.columns}
    if parent is not None:
        there = {column.name: column.type for column in parent.columns}
    else:
        there = _outside(session, key, where)
    for names, types, whose, at in (
        (key.columns, here, key.table, f"{where}.columns"),
        (key.referred, there, key.references, f"{where}.referred"),
    ):
        missing = [name for name in names if name not in types]
        if missing:
            new = "" if _held(graph, whose) is None else "the new "
            raise UsageError(f"{at}: {new}{whose} has no column {missing[0]}")
    for ours, theirs in zip(key.columns, key.referred, strict=True):
        probing.comparable(session, there[theirs], here[ours], f"{where}: {ours} and {theirs}")


def _outside(session: Session, key: ForeignKey, where: str) -> dict[str, str]:
    """Types of the columns of a table of nobody's change, which must have such a key. Raises UsageError."""
    rows = session.rows(_COLUMNS, {"name": key.references})
    if not rows:
        raise UsageError(
            f"{where}.references: there is no ordinary table {key.references}", hint="give it as schema.table"
        )
    types = {row["column"]: row["type"] for row in rows}
    known = set(key.referred) <= set(types)
    names = sorted(key.referred, key=lambda name: name.encode())
    if known and not session.value(_IS_KEY, {"table": rows[0]["oid"], "names": names}):
        raise UsageError(
            f"{where}.referred: {', '.join(key.referred)} is not a primary or unique key of {key.references}"
        )
    return types
