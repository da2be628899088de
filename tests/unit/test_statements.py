"""How statements and their parameters are spelt for PostgreSQL."""

from __future__ import annotations

from mandate.postgres.arrays import columns, literal
from mandate.postgres.numbered import numbered


def test_placeholders_are_numbered_by_name() -> None:
    statement = b"SELECT %(b)s::int, %(a)s, '%%', 5 %% 2, %(b)s -- %(c)s"
    assert numbered(statement) == (b"SELECT $1::int, $2, '%', 5 % 2, $1 -- $3", ("b", "a", "c"))
    assert numbered(b"SELECT 1") == (b"SELECT 1", ())


def test_array_literals() -> None:
    assert literal([]) == "{}"
    assert literal([""]) == '{""}'
    assert literal(["a,b", "{c}", "NULL"]) == '{"a,b","{c}","NULL"}'
    assert literal(['a"b', None, "c\\d"]) == '{"a\\"b",NULL,"c\\\\d"}'
    assert literal(['a"b', "c\\d", ""]) == '{"a\\"b","c\\\\d",""}'
    assert literal(["a\0b", "c"]) == '{"a\0b","c"}'  # refused by PostgreSQL, not read as three


def test_array_literals_of_columns() -> None:
    assert columns([]) == []
    rows = [("a,b", 'c"d'), ("", "e\\f"), ("NULL", "g")]
    assert columns(rows) == ['{"a,b","","NULL"}', '{"c\\"d","e\\\\f","g"}']
    assert columns(rows) == [literal(values) for values in zip(*rows, strict=True)]
    assert columns([("a\1b", "c"), ("d", "e")]) == ['{"a\1b","d"}', '{"c","e"}']
    assert columns([("a\0b", "c")]) == ['{"a\0b"}', '{"c"}']
