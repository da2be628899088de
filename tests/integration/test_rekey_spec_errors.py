"""A spec that cannot be meant is refused with its file, its entry and what to do, before anything is done."""

from __future__ import annotations

import pytest
from tests.servers import DatabaseFactory
from tests.shadowing import graph_of, run_script, session_of
from tests.shops import change, schemas_left

from mandate.errors import CheckFailed, NeedsPerson, UsageError
from mandate.postgres.connection import Target, connect
from mandate.rekey import refuse, spec
from mandate.rekey.discover import discover

SCRIPT = """
CREATE TABLE a (id int PRIMARY KEY, n text, nn int UNIQUE);
CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, loose int, note text);
CREATE TABLE few (id int PRIMARY KEY);
INSERT INTO few VALUES (1), (2), (3);
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

# The parts beside keys, on tables of their own: what is appended to DOCS -> what the message begins with.
WITH_DOCS = """
CREATE TABLE p (id int PRIMARY KEY, n text UNIQUE, grp int, made jsonb GENERATED ALWAYS AS ('{}') STORED);
CREATE TABLE q (id int PRIMARY KEY, p int REFERENCES p, doc jsonb, txt text, other int);
CREATE TABLE z (id int PRIMARY KEY, g int);
CREATE INDEX taken ON z (g);
"""
HEAD = '[rekey]\nname = "t"\n[[key]]\ntable = "public.p"\ncolumns = ["id"]\nold_default = "1"\n'
NEW = '[[key.new]]\nname = "id"\ntype = "text"\n'
DOCS = f'{HEAD}{NEW}expression = "n"\n'
JSON = '[[json]]\ntable = "public.q"\ncolumn = "doc"\npath = "$.x"\nkey = "public.p"\n'
INDEX = '[[index]]\ntable = "public.q"\nname = "ix"\non = "(p)"\n'
FOREIGN = (
    '[[foreign_key]]\ntable = "public.q"\nname = "fk"\ncolumns = ["other"]\nreferences = "public.z"\n'
    'referred = ["id"]\n'
)
MANY = "key[0].query: it has 3 columns, and 2 are needed"
PATH = "json[0].path: it is $ and at most 32 steps"


def queried(text: str) -> str:
    return f'{HEAD}query = """{text}"""\n{NEW}'


PARTS = {
    queried("SELECT id, n, grp FROM public.p"): MANY,
    queried("SELECT id FROM public.p"): "key[0].query: it has 1 columns, and 2 are needed",
    queried("SELECT n, n FROM public.p"): "key[0].query: operator does not exist: text = integer",
    queried("SELECT id, nope FROM public.p"): 'key[0].query: column "nope" does not exist',
    queried("SELECT id, n FROM p"): 'key[0].query: relation "p" does not exist',
    queried("SELECT 1, 'a'; DROP TABLE p"): "key[0].query: the query must be one SELECT",
    queried("SELECT 1, 'a') AS x (o1, id) ON true --"): "key[0].query: \"SELECT 1, 'a') AS x",
    queried("DELETE FROM public.p RETURNING id, n"): "key[0].query: the query must be one SELECT",
    queried("WITH d AS (DELETE FROM public.p RETURNING *) SELECT id, n FROM d"): "key[0].query: WITH clause",
    queried("SELECT id, n INTO public.y FROM public.p"): "key[0].query: SELECT ... INTO is not allowed",
    queried("SELECT id, n FROM public.p FOR UPDATE"): "key[0].query: the query must not lock rows",
    queried(""): "key[0].query: the query must be one SELECT",
    f'{DOCS}replaces = "nope"\n': "key[0]: public.p has no column nope",
    f'{HEAD}query = "SELECT 1"\n{NEW}inverse = "1"\n': "key[0]: column id: with a query, give the key",
    DOCS + JSON.replace('path = "$.x"\n', ""): "json[0].path: it is missing",
    **{
        DOCS + JSON.replace("$.x", path): PATH
        for path in ("", "$", "$.**", "$[0]", "$.x?(@ > 1)", "$.é", "$.x\\n", "$" + "[*]" * 33, "$.x; DROP")
    },
    DOCS + JSON.replace("public.p", "public.z"): "json[0].key: public.z is the table of no [[key]]",
    DOCS + JSON.replace("public.q", "public.z"): "json[0].table: public.z holds no key that changes",
    DOCS + JSON.replace("doc", "nope"): "json[0].column: public.q has no column nope before and after",
    DOCS + JSON.replace("doc", "p"): "json[0].column: public.q has no column p before and after",
    DOCS + JSON.replace("doc", "txt"): "json[0].column: public.q.txt is text, not jsonb",
    DOCS + JSON.replace("public.q", "public.p").replace("doc", "made"): "json[0].column: public.p.made is",
    f'{DOCS}{JSON}old = "n"\n': "json[0].old: 'n' is not one of id",
    f'{DOCS}{JSON}new = "n"\n': "json[0].new: 'n' is not one of id",
    f'{DOCS}{JSON}same = {{ n = "txt" }}\n': "json[0].same: 'n' is not one of id",
    f'{DOCS}{JSON}same = {{ id = "nope" }}\n': "json[0].same.id: public.q has no column nope before and",
    f'{DOCS}{JSON}same = {{ id = "other" }}\n': "json[0].same.id: operator does not exist: text = integer",
    f'{DOCS}{JSON.replace("$.x", "$.x[*]")}rename = "y"\n': "json[0]: rename needs a path that ends with",
    DOCS.replace('old_default = "1"\n', "").replace('"n"', '"id::text"') + JSON: "json[0]: the key of public",
    DOCS + INDEX.replace("public.q", "public.z"): "index[0].table: public.z holds no key that changes",
    DOCS + INDEX.replace("(p)", "(nope)"): 'index[0].on: column "nope" does not exist',
    DOCS + INDEX.replace("(p)", "(p) WHERE nope"): 'index[0].on: column "nope" does not exist',
    DOCS + INDEX.replace("(p)", "(nofunc(p))"): "index[0].on: function nofunc(text) does not exist",
    DOCS + INDEX.replace("(p)", "(p); DROP TABLE z"): "index[0].on: '(p); DROP TABLE z' is more than",
    DOCS + INDEX.replace("(p)", "p"): "index[0].on: 'p' is not an index",
    DOCS + INDEX.replace('"ix"', '"taken"'): "index[0].name: public has an index of that name",
    DOCS + INDEX.replace('"ix"', f'"{"x" * 64}"'): "index[0].name: String should have at most 63",
    f'{DOCS}{INDEX}instead_of = ["("]\n': "index[0]: instead_of: '(' is not a regular expression",
    DOCS + FOREIGN.replace('"other"', '"nope"'): "foreign_key[0].columns: the new public.q has no column",
    DOCS + FOREIGN.replace('"id"', '"nope"'): "foreign_key[0].referred: public.z has no column nope",
    DOCS + FOREIGN.replace('"id"', '"g"'): "foreign_key[0].referred: g is not a primary or unique key",
    DOCS + FOREIGN.replace("public.z", "public.x"): "foreign_key[0].references: there is no ordinary table",
    DOCS + FOREIGN.replace('"id"', '"id", "g"'): "foreign_key[0]: columns and referred must be as many",
    DOCS + FOREIGN.replace('"other"', '"txt"'): "foreign_key[0]: txt and id: operator does not exist",
    DOCS + FOREIGN.replace("public.q", "public.z"): "foreign_key[0].table: public.z holds no key that",
    f'{REFERENCE}columns = ["a"]\ndrop_default = "x"\n': "reference[0].drop_default: Input should be a valid",
}

# What PostgreSQL says when it is tried, empty, for the plan.
TRIED = {
    DOCS + INDEX + INDEX: 'index ix: relation "ix" already exists',
    DOCS
    + FOREIGN.replace("public.z", "public.p")
    .replace('"fk"', '"q_pkey"')
    .replace('"other"', '"txt"'): 'constraint "q_pkey" for relation "q" already exists',
    DOCS + FOREIGN.replace("public.z", "public.p").replace('"id"', '"grp"'): "no unique constraint matching",
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
    f'{BIG}[[foreign_key]]\ntable = "public.b"\nname = "up"\ncolumns = ["loose"]\nreferences = "public.few"\n'
    'referred = ["id"]\n': "public.b (id 4): foreign key up is not met, public.few has no such row",
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


def test_every_part_of_a_spec_is_tried_before_anything_is_done(database: DatabaseFactory) -> None:
    target = database("empty")
    run_script(target, WITH_DOCS)
    with session_of(target) as session:
        for text, expected in PARTS.items():
            with pytest.raises(UsageError) as raised:
                discover(session, spec.parse(text, "my.toml"))
            assert raised.value.message.removeprefix("my.toml: ").startswith(expected), raised.value.message
            assert raised.value.message.startswith("my.toml: ")
        for text, expected in TRIED.items():
            assert expected in "\n".join(refuse.problems(session, graph_of(session, text)))


def test_what_the_rows_contradict_is_found_before_anything_is_copied(plain: Target) -> None:
    for text, expected in FAILING.items():
        engine = change(plain, text)
        with pytest.raises(CheckFailed) as raised:
            engine.run()
        assert expected in raised.value.message
        with connect(plain) as session:
            assert session.value("SELECT to_regnamespace('mandate_new_t')") is None


def test_after_a_wrong_spec_the_right_one_runs(plain: Target) -> None:
    """Whether it was the spec that was wrong, or what the map phase made of the rows by it."""
    with pytest.raises(UsageError):
        change(plain, made("idd")).run()
    with pytest.raises(CheckFailed, match="would have the same key"):
        change(plain, made("1::bigint")).run()
    engine = change(plain, BIG)
    engine.run()
    with pytest.raises(NeedsPerson, match="differs from the one"):
        change(plain, made("id * 2")).run()
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
