"""A spec that cannot be meant is refused with its file, its entry and what to do, before anything is done."""

from __future__ import annotations

import pytest
from tests.servers import DatabaseFactory
from tests.shadowing import run_script, session_of
from tests.shops import change, schemas_left

from mandate.errors import CheckFailed, UsageError
from mandate.postgres.connection import Target, connect
from mandate.rekey import spec
from mandate.rekey.discover import discover

SCRIPT = """
CREATE TABLE a (id int PRIMARY KEY, n text, nn int UNIQUE);
CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, loose int, note text);
INSERT INTO a SELECT i, 'n' || i, nullif(i, 3) FROM generate_series(1, 10) i;
INSERT INTO b SELECT i, i, i FROM generate_series(1, 10) i;
"""
KEY = '[rekey]\nname = "t"\n[[key]]\ntable = "public.a"\ncolumns = ["id"]\n[[key.new]]\nname = "id"\n'
BIG = f'{KEY}type = "bigint"\nexpression = "id::bigint"\n'
TEXT = f'{KEY}type = "text"\nexpression = "n"\n'
REFERENCE = f'{BIG}[[reference]]\ntable = "public.b"\n'
CHECK = f'{BIG}[[check]]\ntable = "public.a"\nname = "x"\nexpression = '


def made(expression: str, type_: str = "bigint") -> str:
    return f'{KEY}type = "{type_}"\nexpression = "{expression}"\n'


# Spec -> what its message begins with, behind the file's name.
WRONG = {
    "[rekey\n": "is not valid TOML",
    "": "rekey: it is missing",
    BIG.replace("columns", "colums"): "key[0].colums: there is no such entry",
    BIG.replace("public.a", "a"): "key[0].table: give it as schema.table",
    BIG.replace('"t"', '"T"'): "rekey.name: only a-z, 0-9 and _, at most 30 characters",
    BIG.replace("public.a", "public.nosuch"): "key[0]: there is no table public.nosuch",
    BIG.replace('["id"]', '["idd"]'): "key[0]: public.a has no column idd",
    BIG.replace('["id"]', '["n"]'): "key[0].columns: n is not a primary or unique key of public.a",
    made("id::bigint", "bigintt"): 'key[0].new[0].type: type "bigintt" does not exist',
    made("id::bigint", "serial"): 'key[0].new[0].type: type "serial" does not exist',
    made("id::bigint", "bigint); DROP TABLE a; --"): "key[0]: 'bigint); DROP TABLE a; --' is not a type",
    made("id::"): "key[0]: 'id::' is not an expression",
    made("id); DROP TABLE a; --"): "key[0]: 'id); DROP TABLE a; --' is",
    made("id, id"): "key[0].new[0].expression: cannot cast type record",
    made("idd + 1"): 'key[0].new[0].expression: column "idd" does not exist',
    made("nofunc(id)"): "key[0].new[0].expression: function nofunc(integer) does not exist",
    made("max(id)"): "key[0].new[0].expression: aggregate functions are not allowed",
    made("generate_series(1, id)"): "key[0].new[0].expression: set-returning functions are not allowed",
    made("id::bigint", "uuid"): "key[0].new[0].expression: cannot cast type bigint to uuid",
    f'{BIG}inverse = "foo"\n': 'key[0].new[0].inverse: column "foo" does not exist',
    TEXT.replace("[[key.new]]", 'old_default = "nofunc()"\n[[key.new]]'): "key[0].old_default: function",
    TEXT.replace("[[key.new]]", 'drop = { n = "nope" }\n[[key.new]]'): 'key[0].drop.n: column "nope"',
    BIG.replace('name = "id"', 'name = "n"'): "key[0]: public.a has a column n already",
    f'{REFERENCE}columns = ["x"]\nnew = ["y"]\n': "reference[0]: public.b has no column x",
    f'{REFERENCE}columns = ["loose"]\nnew = ["y"]\n': "reference[0]: no foreign key of public.b on loose",
    f'{REFERENCE}columns = ["loose"]\nkey = "public.x"\n': "reference[0].key: public.x is the table of no",
    f'{REFERENCE}columns = ["note"]\nkey = "public.a"\n': "reference[0]: public.b.note: operator does not",
    f'{REFERENCE}columns = ["a", "id"]\nkey = "public.a"\n': "reference[0].columns: there must be as many",
    f'{REFERENCE}columns = ["a"]\nnew = ["note"]\n': "reference of public.b to public.a: public.b has",
    f'{CHECK}"idd > 0"\n': 'check[0].expression: column "idd" does not exist',
    f'{CHECK}"id >"\n': "check[0].expression: syntax error",
}

# What only the rows tell.
FAILING = {
    made("id / 2"): "the new key (2) comes 2 times: from (4), (5)",
    made("nullif(id, 5)"): "the row with key (5) gets no new key (NULL)",
    made("1 / (id - 5)"): "the new key of public.a cannot be computed for some row: division by zero",
    made("'x' || id", "text"): "the way back (inverse) of public.a cannot be computed for some row: invalid",
    f'{BIG}inverse = "id::int % 9"\n'.replace(
        "id::bigint", "id::bigint * 10"
    ): "inverse does not make 9 of 90 again",
    f'{CHECK}"id > 5"\n': "public.a (id 1): check x is not met",
}


@pytest.fixture
def plain(database: DatabaseFactory) -> Target:
    target = database("empty")
    run_script(target, SCRIPT)
    return target


def test_the_file_the_entry_and_a_way_out_are_named(plain: Target) -> None:
    with session_of(plain) as session:
        for text, expected in WRONG.items():
            with pytest.raises(UsageError) as raised:
                discover(session, spec.parse(text, "my.toml"))
            assert (
                raised.value.message.removeprefix("my.toml: ").removeprefix("my.toml ").startswith(expected)
            )
            assert "my.toml" in raised.value.message


def test_what_the_rows_contradict_is_found_before_anything_is_copied(plain: Target) -> None:
    for text, expected in FAILING.items():
        engine = change(plain, text)
        with pytest.raises(CheckFailed) as raised:
            engine.run()
        assert expected in raised.value.message
        with connect(plain) as session:
            assert session.value("SELECT to_regnamespace('mandate_new_t')") is None
        engine.abort()


def test_after_a_wrong_spec_the_right_one_runs(plain: Target) -> None:
    with pytest.raises(UsageError):
        change(plain, made("idd")).run()
    engine = change(plain, BIG)
    engine.run()
    engine.finalize()
    with connect(plain) as session:
        assert schemas_left(session) == []


def test_a_unique_key_may_be_null(plain: Target) -> None:
    engine = change(plain, BIG.replace('"id"', '"nn"').replace("id::", "nn::"))
    engine.run()
    with connect(plain) as session:
        assert session.value("SELECT pg_typeof(nn)::text FROM a WHERE id = 3") == "bigint"
        assert session.value("SELECT count(*) FROM a WHERE nn IS NULL") == 1
    engine.rollback()
