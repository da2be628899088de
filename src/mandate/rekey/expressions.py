"""Expressions of a spec, read with PostgreSQL's own grammar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mandate.errors import UsageError
from mandate.postgres import grammar
from mandate.postgres.connection import sql


def require_one(text: str, where: str) -> None:
    """Raise UsageError unless `text` is one expression and nothing else."""
    language = grammar.load()
    try:
        statements = language.parse(f"SELECT ({text})").stmts
        language.parse(f"SELECT ({text}\n)")
    except language.PgQueryError as error:
        raise UsageError(f"{where}: {text!r} is not an expression: {error}") from None
    if len(statements) != 1 or len(statements[0].stmt.select_stmt.target_list) != 1:
        raise UsageError(f"{where}: {text!r} is more than one expression")


def require_select(text: str, where: str) -> None:
    """Raise UsageError unless `text` is one query."""
    language = grammar.load()
    try:
        statements = language.parse(text).stmts
    except language.PgQueryError as error:
        raise UsageError(f"{where}: {text!r} is not a query: {error}") from None
    if len(statements) != 1 or statements[0].stmt.WhichOneof("node") != "select_stmt" or ";" in text:
        raise UsageError(f"{where}: the query must be one SELECT, without a semicolon")
    if len(statements[0].stmt.select_stmt.locking_clause):
        raise UsageError(f"{where}: the query must not lock rows (FOR ...): clients would wait for it")


def require_type(text: str, where: str) -> None:
    """Raise UsageError unless `text` is the name of a type."""
    language = grammar.load()
    try:
        casts = language.parse(f"SELECT NULL::{text}").stmts
    except language.PgQueryError as error:
        raise UsageError(f"{where}: {text!r} is not a type: {error}") from None
    target = casts[0].stmt.select_stmt.target_list if len(casts) == 1 else []
    if len(target) != 1 or target[0].res_target.val.WhichOneof("node") != "type_cast":
        raise UsageError(f"{where}: {text!r} is not a type")


def columns(text: str) -> set[str]:
    """Names of the columns that an expression reads, without their qualifier."""
    language = grammar.load()
    tree = language.parse(f"SELECT ({text})")
    return {
        node.fields[-1].string.sval for node in language.find_nodes(tree, language.pg_query_pb2.ColumnRef)
    }


def numbering(text: str, aside: Callable[[str], str]) -> str:
    """An expression whose `nextval('schema.name')` finds the sequence in `aside(schema)` too.

    A sequence goes aside with the column that owns it.
    """
    language = grammar.load()
    tree = language.parse(f"SELECT ({text})")
    before = tree.SerializeToString(deterministic=True)
    for call in language.find_nodes(tree, language.pg_query_pb2.FuncCall):
        name = _constant(call.args[0]) if call.funcname[-1].string.sval == "nextval" and call.args else None
        place = None if name is None else _place(name)
        if name is None or place is None:
            continue
        found = sql.SQL(
            "SELECT COALESCE(pg_catalog.to_regclass({there}), pg_catalog.to_regclass({aside}),"
            " {there}::pg_catalog.text::pg_catalog.regclass)"
        ).format(
            there=sql.Literal(name), aside=sql.Literal(sql.Identifier(aside(place[0]), place[1]).as_string())
        )
        made = language.parse(found.as_string()).stmts[0].stmt.select_stmt.target_list[0].res_target.val
        call.args[0].CopyFrom(made)
    if tree.SerializeToString(deterministic=True) == before:
        return text
    done: str = language.deparse(tree)
    return done.removeprefix("SELECT ")


def _constant(node: Any) -> str | None:
    """The text that an expression is, casts aside, when it is nothing else."""
    while node.WhichOneof("node") == "type_cast":
        node = node.type_cast.arg
    if node.WhichOneof("node") != "a_const" or node.a_const.WhichOneof("val") != "sval":
        return None
    return str(node.a_const.sval.sval)


def _place(name: str) -> tuple[str, str] | None:
    """Schema and name, as they are, of a name with its schema."""
    language = grammar.load()
    try:
        tree = language.parse(f"TABLE {name}")
    except language.PgQueryError:
        return None
    found = list(language.find_nodes(tree, language.pg_query_pb2.RangeVar))
    if len(found) != 1 or not found[0].schemaname:
        return None
    return found[0].schemaname, found[0].relname
