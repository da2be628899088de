"""A psql file -> its statements, in order, with the echoes and check annotations between them.

Only `\\echo`, `\\set`, `\\pset` and `\\timing` are understood; anything else that psql would do is refused,
because running half a file is worse than running none of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mandate.errors import MandateError
from mandate.postgres import grammar

_META = re.compile(r"^\\(\w+)[ \t]*(.*)$")
_IGNORED = {"set", "pset", "timing"}
_ANNOTATION = re.compile(
    r"^\s*--\s*check:\s*(?P<id>[a-z0-9_]+)\s+expect=(?P<expect>zero|any|nonzero|rows)\s*$"
)


@dataclass(frozen=True)
class Echo:
    """A line that psql prints."""

    text: str


@dataclass(frozen=True)
class Statement:
    """One SQL statement, without its semicolon; `check`/`expect` come from its annotation."""

    sql: str
    line: int
    check: str | None = None
    expect: str | None = None


def read(path: Path) -> list[Echo | Statement]:
    """Parse a file. Raises MandateError naming file and line for a meta command it does not know."""
    return list(parse(path.read_text("utf-8"), path.name))


def parse(text: str, name: str = "script") -> Iterator[Echo | Statement]:
    """Parse text; see the module."""
    block: list[str] = []
    start = 1
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        meta = _META.match(line.rstrip("\r\n"))
        if meta is None or not _between_statements(block):
            block.append(line)
            continue
        yield from _statements("".join(block), start)
        block, start = [], number + 1
        if meta[1] == "echo":
            yield Echo(_unquote(meta[2].strip()))
        elif meta[1] not in _IGNORED:
            raise MandateError(f"{name}:{number}: \\{meta[1]} is not supported here")
    yield from _statements("".join(block), start)


def _between_statements(block: list[str]) -> bool:
    """True unless the lines so far end inside a statement, where a backslash is not a command."""
    text = "".join(block)
    if not text.strip():
        return True
    try:
        tokens = [token for token in grammar.load().scan(text).tokens if not _is_comment(token.token)]
    except grammar.load().PgQueryError:
        return False
    return not tokens or text.encode()[tokens[-1].start : tokens[-1].end] == b";"


def _is_comment(token: int) -> bool:
    return token in (grammar.load().pg_query_pb2.SQL_COMMENT, grammar.load().pg_query_pb2.C_COMMENT)


def _statements(block: str, start: int) -> Iterator[Statement]:
    offset = 0
    for sql in grammar.load().split(block):
        at = block.index(sql, offset)
        leading = block[offset:at] + sql
        check, expect = _annotation(leading)
        yield Statement(sql, start + block.count("\n", 0, at), check, expect)
        offset = at + len(sql)


def _annotation(text: str) -> tuple[str | None, str | None]:
    for line in text.splitlines():
        stripped = line.strip().lstrip(";").strip()
        if not stripped:
            continue
        if not stripped.startswith("--"):
            break
        if found := _ANNOTATION.match(stripped):
            return found["id"], found["expect"]
    return None, None


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace("''", "'")
    return text


def commits(statement: Statement) -> bool:
    """Whether a statement is COMMIT (or END), which ends the transaction that its file began."""
    parsed = grammar.load().parse(statement.sql).stmts
    if not parsed or parsed[0].stmt.WhichOneof("node") != "transaction_stmt":
        return False
    return bool(parsed[0].stmt.transaction_stmt.kind == grammar.load().pg_query_pb2.TRANS_STMT_COMMIT)
