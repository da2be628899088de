"""What the engine cannot carry, or may not, is named by the plan; and it never drops what is not its own."""

from __future__ import annotations

import pytest
from psycopg import sql
from tests.sampling import dump
from tests.servers import DatabaseFactory
from tests.shadowing import graph_of, run_script, session_of
from tests.shops import SHOP, TO_BIGINT, change, create, schemas_left

from mandate.errors import CheckFailed, NeedsPerson
from mandate.postgres.connection import Session, Target, connect
from mandate.rekey import hints, refuse

KEY = """
[rekey]
name = "refused"
[[key]]
table = "{table}"
columns = ["id"]
[[key.new]]
name = "id"
type = "bigint"
expression = "id::bigint"
"""

# Each in a schema of its own, called s; the key that changes is s.a.id.
REFUSED = {
    "inheritance": (
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (x int) INHERITS (a)",
        "s.a is part of an inheritance tree",
    ),
    "partition": (
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (9);"
        "ALTER TABLE p1 ADD FOREIGN KEY (id) REFERENCES a",
        "s.p1 is a partition",
    ),
    "partitioned child": (
        "CREATE TABLE a (id int PRIMARY KEY);"
        "CREATE TABLE p (id int PRIMARY KEY CONSTRAINT up REFERENCES a) PARTITION BY RANGE (id)",
        "s.p is partitioned: the engine cannot change what foreign key up refers to",
    ),
    "partitioned": (
        "CREATE TABLE a (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "s.a is a partitioned table",
    ),
    "unlogged": ("CREATE UNLOGGED TABLE a (id int PRIMARY KEY)", "s.a is unlogged"),
    "view": ("CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW a AS SELECT * FROM t", "s.a is a view"),
    "unlogged child": (
        "CREATE TABLE a (id int PRIMARY KEY); CREATE UNLOGGED TABLE b (id int PRIMARY KEY REFERENCES a)",
        "s.b is not an ordinary table, or unlogged",
    ),
    "no key": (
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int REFERENCES a);"
        "CREATE UNIQUE INDEX ON b (a)",
        "without a primary key rows cannot be told apart: s.b",
    ),
    "typed": (
        "CREATE TYPE t AS (id int); CREATE TABLE a OF t (PRIMARY KEY (id))",
        "s.a is a typed table (of s.t)",
    ),
    "row type in a column": (
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE holder (row_of_a s.a)",
        "column row_of_a of table s.holder uses the row type of s.a",
    ),
    "index on a function of int": (
        "CREATE TABLE a (id int PRIMARY KEY); CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE"
        " AS 'SELECT $1'; CREATE INDEX of_f ON a (s.f(id))",
        "index of_f: function s.f(bigint) does not exist",
    ),
    "trigger from": (
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int); CREATE FUNCTION f() RETURNS trigger"
        " LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE CONSTRAINT TRIGGER looks AFTER INSERT ON b"
        " FROM s.a FOR EACH ROW EXECUTE FUNCTION f()",
        "trigger looks of table s.b is FROM s.a",
    ),
}

# Errors of discover, which have a hint of their own, and PostgreSQL's.
SAYS_IT_ITSELF = {
    "partitioned child",
    "partitioned",
    "unlogged",
    "view",
    "unlogged child",
    "no key",
    "index on a function of int",
}


@pytest.fixture
def plain(database: DatabaseFactory) -> Target:
    return database("empty")


def said(session: Session, text: str) -> str:
    """What the plan says against it."""
    try:
        return "\n".join(refuse.problems(session, graph_of(session, text)))
    except CheckFailed as error:
        return error.message


def test_what_cannot_be_carried_is_named(plain: Target) -> None:
    missed = {}
    for name, (script, expected) in REFUSED.items():
        run_script(plain, f"CREATE SCHEMA s; SET search_path = s; {script}")
        with session_of(plain) as session:
            found = said(session, KEY.format(table="s.a"))
            session.execute("DROP SCHEMA s CASCADE")
        line = next((each for each in found.splitlines() if expected in each), None)
        if line is None:
            missed[name] = found
        elif hints.hint(line) is None and name not in SAYS_IT_ITSELF:
            missed[name] = f"no hint: {line}"
    assert missed == {}


def test_a_publication_of_a_schema_has_the_tables_before_and_after(plain: Target) -> None:
    run_script(
        plain,
        "CREATE SCHEMA s; CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE s.b (id int PRIMARY KEY);"
        "INSERT INTO s.a VALUES (1); CREATE PUBLICATION of_s FOR TABLES IN SCHEMA s",
    )
    before = dump(plain)
    published = "SELECT schemaname || '.' || tablename AS t FROM pg_publication_tables ORDER BY 1"
    engine = change(plain, KEY.format(table="s.a"))
    engine.run()
    with connect(plain) as session:
        assert [row["t"] for row in session.rows(published)] == ["s.a", "s.b"]
        session.execute("UPDATE s.a SET id = 2")
        engine.rollback()
        assert dump(plain) == before
        assert [row["t"] for row in session.rows(published)] == ["s.a", "s.b"]
        session.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    with pytest.raises(CheckFailed, match=r"(?s)publication everything publishes all .*FOR TABLES IN SCHEMA"):
        engine.run()
    with connect(plain) as session:
        session.execute("DROP PUBLICATION everything, of_s")


OWNED = """
DROP ROLE IF EXISTS rekey_runner; DROP ROLE IF EXISTS rekey_owner; DROP ROLE IF EXISTS rekey_client;
CREATE ROLE rekey_owner; CREATE ROLE rekey_client LOGIN; CREATE ROLE rekey_runner LOGIN IN ROLE rekey_owner;
CREATE SCHEMA app AUTHORIZATION rekey_owner;
GRANT USAGE ON SCHEMA app TO rekey_client;
SET ROLE rekey_owner;
CREATE TABLE app.a (id serial PRIMARY KEY, n text);
CREATE TABLE app.b (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    a int NOT NULL REFERENCES app.a ON DELETE CASCADE);
ALTER TABLE app.b ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON app.b TO rekey_client USING (a < 50);
CREATE VIEW app.v AS SELECT a.id, count(*) FROM app.a JOIN app.b ON b.a = a.id GROUP BY 1;
CREATE MATERIALIZED VIEW app.m AS SELECT * FROM app.v;
CREATE STATISTICS app.st ON id, n FROM app.a;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO rekey_client;
INSERT INTO app.a (n) SELECT 'n' FROM generate_series(1, 100);
INSERT INTO app.b (a) SELECT generate_series(1, 100);
RESET ROLE;
"""


def as_runner(target: Target) -> Target:
    return Target({**target.parameters, "user": "rekey_runner"}, "test")


def grant_create(target: Target) -> None:
    with connect(target) as session:
        session.execute(
            sql.SQL("GRANT CREATE ON DATABASE {} TO rekey_runner").format(sql.Identifier(target.database))
        )


def test_the_owner_of_the_tables_needs_no_superuser(plain: Target) -> None:
    run_script(plain, OWNED)
    grant_create(plain)
    before = dump(plain)
    engine = change(as_runner(plain), KEY.format(table="app.a"))
    engine.run()
    with connect(Target({**plain.parameters, "user": "rekey_client"}, "test")) as client:
        client.execute("UPDATE app.a SET n = 'changed' WHERE id = 7")
        assert client.value("SELECT count(*) FROM app.b") == 49
    engine.rollback()
    assert dump(plain) == before
    engine.run()
    engine.finalize()
    with connect(plain) as session:
        assert schemas_left(session) == []
        assert session.value("SELECT n FROM app.a WHERE id = 7") == "changed"
        assert (
            session.value("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'm'")
            == "rekey_owner"
        )
        session.execute("DROP OWNED BY rekey_runner, rekey_owner, rekey_client CASCADE")


def test_rights_that_are_missing_are_named_before_anything_is_done(plain: Target) -> None:
    run_script(plain, OWNED)
    run_script(
        plain,
        "ALTER SCHEMA app OWNER TO CURRENT_USER; GRANT USAGE ON SCHEMA app TO rekey_owner;"
        "CREATE TABLE app.outside (id int PRIMARY KEY, a int REFERENCES app.a);"
        "CREATE TABLE app.lookup (id int PRIMARY KEY);"
        "ALTER TABLE app.b ADD l int CONSTRAINT looked_up REFERENCES app.lookup, FORCE ROW LEVEL SECURITY;"
        "CREATE PUBLICATION refused FOR TABLE app.a",
    )
    with session_of(as_runner(plain)) as session:
        found = said(session, KEY.format(table="app.a"))
    for expected in (
        "rekey_runner may not create schemas in database",
        "rekey_runner may not create tables in schema app, where the new ones go",
        "rekey_runner may not refer to app.lookup (foreign key looked_up)",
        "table app.outside belongs to ",
        "publication refused belongs to ",
        "policies hide rows of table app.b from rekey_runner: use a role with BYPASSRLS",
    ):
        assert expected in found
    with connect(plain) as session:
        session.execute("DROP OWNED BY rekey_runner, rekey_owner, rekey_client CASCADE")


def test_what_somebody_made_on_the_old_tables_is_not_dropped_with_them(plain: Target) -> None:
    create(plain, SHOP)
    engine = change(plain, TO_BIGINT)
    engine.run()
    with connect(plain) as session:
        session.execute("CREATE VIEW shop.old_orders AS SELECT id FROM mandate_pre_shop.orders")
        with pytest.raises(NeedsPerson, match=r"view shop\.old_orders needs mandate_pre_shop\.orders"):
            engine.finalize()
        assert session.value("SELECT count(*) FROM shop.old_orders") == 2000
        session.execute("DROP VIEW shop.old_orders")
        engine.finalize()
        assert schemas_left(session) == []
