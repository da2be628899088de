"""Expressions of a spec, read with PostgreSQL's own grammar."""

from __future__ import annotations

from mandate.errors import UsageError
from mandate.postgres import grammar


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
