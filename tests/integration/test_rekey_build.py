"""Building shadows: what can be refused is refused first, what was built is not built again."""

from __future__ import annotations

import subprocess

import pytest
from psycopg import sql
from tests.servers import DatabaseFactory
from tests.shadowing import (
    build_all,
    drop_schemas,
    fill,
    graph_of,
    run_script,
    schema_dump,
    session_of,
    swap,
)

from mandate.errors import CheckFailed, DatabaseError
from mandate.postgres import programs
from mandate.postgres.connection import Session, Target
from mandate.progress import Silent
from mandate.rekey import build, crew, refuse, shadow
from mandate.rekey.direction import BACK
from mandate.rekey.fingerprint import fingerprint
from mandate.rekey.model import Graph
from mandate.rekey.rewriting import CannotRewrite

PARENT = """
CREATE SCHEMA s;
CREATE TABLE s.parent (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, n integer);
CREATE TABLE s.child (
    id integer PRIMARY KEY, parent uuid NOT NULL REFERENCES s.parent ON DELETE CASCADE, n integer
);
CREATE INDEX child_parent ON s.child (parent, n);
INSERT INTO s.parent (name, n) SELECT 'p' || i, i FROM generate_series(1, 40) i;
INSERT INTO s.child SELECT row_number() OVER (), id, n FROM s.parent;
"""

TO_TEXT = """
[rekey]
name = "s"
[[key]]
table = "s.parent"
columns = ["id"]
[[key.new]]
name = "id"
type = "text"
expression = "replace(id::text, '-', '')"
inverse = "id::uuid"
"""

TO_NAME = """
[rekey]
name = "s"
[[key]]
table = "s.parent"
columns = ["id"]
drop = { name = "key" }
old_default = "gen_random_uuid()"
[[key.new]]
name = "key"
type = "text"
expression = "name"
"""


@pytest.fixture
def parent(database: DatabaseFactory) -> Target:
    target = database("empty")
    run_script(target, PARENT)
    return target


def problems(target: Target, script: str, text: str = TO_NAME) -> list[str]:
    run_script(target, script)
    with session_of(target) as session:
        return refuse.problems(session, graph_of(session, text))


# -- building ----------------------------------------------------------------------------------------


def built_names(session: Session, graph: Graph) -> set[str]:
    rows = session.rows(
        "SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = to_regnamespace(%s)"
        " UNION ALL SELECT conname FROM pg_constraint WHERE connamespace = to_regnamespace(%s)"
        " AND contype <> 'n'",
        (graph.spec.shadow_schema, graph.spec.shadow_schema),
    )
    return {row["name"] for row in rows}


def test_a_run_that_ended_anywhere_is_continued(parent: Target) -> None:
    with session_of(parent) as session:
        graph = graph_of(session, TO_TEXT)
        shadow.create(session, graph)
        shadow.create(session, graph)
        fill(session, graph)
        first = build.tasks(session, graph)
        # Each task is one transaction: a killed run leaves a prefix of them.
        for done in range(1, len(first)):
            crew.run([session], build.tasks(session, graph)[:1])
            assert len(build.tasks(session, graph)) <= len(first), done
        crew.run([session], build.tasks(session, graph))
        whole = built_names(session, graph)
        assert {"parent_pkey", "child_pkey", "child_parent"} <= whole
        left = build.tasks(session, graph)
        assert [task.name for task in left if not task.name.startswith("statistics of")] == []
        build.foreign_keys([session], graph)
        assert build.foreign_key_tasks(session, graph) == []
        build.foreign_keys([session], graph)
        assert built_names(session, graph) == whole | {"child_parent_fkey"}


def test_a_foreign_key_that_was_added_and_not_proven_is_proven(parent: Target) -> None:
    with session_of(parent) as session:
        graph = graph_of(session, TO_TEXT)
        shadow.create(session, graph)
        fill(session, graph)
        crew.run([session], build.tasks(session, graph))
        crew.run([session], build.foreign_key_tasks(session, graph)[:1])
        assert [task.name for task in build.foreign_key_tasks(session, graph)] == ["foreign keys of s.child"]


def test_several_sessions_build_what_one_builds(parent: Target) -> None:
    run_script(parent, "".join(f"CREATE INDEX more_{i} ON s.child (n, (n + {i}));" for i in range(12)))
    with session_of(parent) as one, session_of(parent) as two, session_of(parent) as three:
        graph = graph_of(one, TO_TEXT)
        shadow.create(one, graph)
        fill(one, graph)
        crew.run([one, two, three], build.tasks(one, graph), jobs_alone=3)
        crew.run([one, two, three], build.foreign_key_tasks(one, graph))
        names = built_names(one, graph)
        assert {f"more_{i}" for i in range(12)} | {"child_pkey", "child_parent_fkey"} <= names
        assert one.value("SHOW maintenance_work_mem") != "16MB"


def test_rows_that_break_a_rule_of_the_spec_stop_the_build_and_name_it(parent: Target) -> None:
    text = TO_TEXT + ('[[check]]\ntable = "s.parent"\nname = "small"\nexpression = "n < 40"\n')
    with session_of(parent) as session:
        graph = graph_of(session, text)
        shadow.create(session, graph)
        fill(session, graph)
        with pytest.raises(DatabaseError, match="small"):
            crew.run([session], build.tasks(session, graph))
        session.execute("DELETE FROM mandate_new_s.parent WHERE n = 40")
        crew.run([session], build.tasks(session, graph))
        with pytest.raises(DatabaseError, match="child_parent_fkey"):
            build.foreign_keys([session], graph)


def test_an_error_in_one_session_leaves_no_other_at_work(parent: Target) -> None:
    bad = crew.Task(0, "bad", 9, (sql.SQL("SELECT 1/0").format(),))
    slow = crew.Task(0, "slow", 99, (sql.SQL("SELECT pg_sleep(600)").format(),))
    with session_of(parent) as one, session_of(parent) as two:
        with pytest.raises(DatabaseError, match="division by zero"):
            crew.run([one, two], [slow, bad, bad], Silent())
        assert one.value("SELECT 1") == two.value("SELECT 1") == 1


def test_uuid_becomes_text_with_its_default(parent: Target) -> None:
    with session_of(parent) as session:
        graph = graph_of(session, TO_TEXT)
        assert refuse.problems(session, graph) == []
        before = fingerprint(session, sql.SQL("SELECT id, name, n FROM s.parent"))
        build_all(session, graph)
        swap(session, graph)
        born = session.value("INSERT INTO s.parent (name) VALUES ('new') RETURNING id")
        assert len(born) == 32
        assert "-" not in born
        session.execute("DELETE FROM s.parent WHERE id = %s", (born,))
        after = fingerprint(session, sql.SQL("SELECT id::uuid, name, n FROM s.parent"))
        assert after == before
        session.execute("DELETE FROM s.parent WHERE n = 1")
        assert session.value("SELECT count(*) FROM s.child") == 39, "ON DELETE CASCADE is back"
        swap(session, graph, BACK)
        drop_schemas(session, graph)


def test_pgbench_tables_with_keys_between_them_become_bigint(database: DatabaseFactory) -> None:
    target = database("empty")
    programs.run([programs.find("pgbench", 18), "-i", "-s", "1", "--foreign-keys", "-q"], target)
    run_script(
        target,
        "ALTER TABLE pgbench_accounts ADD parent int REFERENCES pgbench_accounts;"
        "UPDATE pgbench_accounts SET parent = aid / 2 WHERE aid > 1 AND aid < 2000;"
        "INSERT INTO pgbench_history SELECT 1, 1, i, 5, now(), 'x' FROM generate_series(1, 500) i;"
        # Rows of the history cannot be told apart without a key.
        "ALTER TABLE pgbench_history ADD id serial PRIMARY KEY",
    )
    before = schema_dump(target)
    text = '[rekey]\nname = "bench"\n' + "".join(
        f'[[key]]\ntable = "public.pgbench_{table}"\ncolumns = ["{column}"]\n'
        f'[[key.new]]\nname = "{column}"\ntype = "bigint"\nexpression = "{column}::bigint"\n'
        for table, column in (("branches", "bid"), ("tellers", "tid"), ("accounts", "aid"))
    )
    with session_of(target) as session:
        graph = graph_of(session, text)
        assert refuse.problems(session, graph) == []
        sums = "SELECT sum(aid), sum(bid), sum(parent), count(*) FROM public.pgbench_accounts"
        expected = {key: str(value) for key, value in (session.row(sums) or {}).items()}
        build_all(session, graph)
        swap(session, graph)
        assert {key: str(value) for key, value in (session.row(sums) or {}).items()} == expected
        wide = session.rows(
            "SELECT DISTINCT column_name AS name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND data_type = 'bigint'"
        )
        assert {row["name"] for row in wide} == {"aid", "bid", "tid", "parent"}
    done = subprocess.run(
        [str(programs.find("pgbench", 18)), "-n", "-t", "20", "-c", "2"],
        env=programs.environment(target, {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with session_of(target) as session:
        swap(session, graph, BACK)
        drop_schemas(session, graph)
    assert schema_dump(target) == before


# -- refusing ----------------------------------------------------------------------------------------


def test_a_plain_schema_is_not_refused(parent: Target) -> None:
    assert problems(parent, "") == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("CREATE TABLE s.heir () INHERITS (s.parent)", "s.parent is part of an inheritance tree"),
        (
            "CREATE TABLE s.other (n text); CREATE RULE noted AS ON DELETE TO s.parent DO ALSO"
            " INSERT INTO s.other VALUES (OLD.name)",
            "table s.parent uses column name of s.parent, which goes away",
        ),
        (
            "CREATE TABLE s.other (n uuid); CREATE RULE also AS ON INSERT TO s.other DO ALSO"
            " UPDATE s.child SET n = 1 WHERE parent = NEW.n",
            "rule also of s.other: column child.parent does not exist",
        ),
        (
            "CREATE FUNCTION s.f(s.parent) RETURNS int LANGUAGE sql AS 'SELECT 1';"
            "CREATE VIEW s.of_f AS SELECT s.f(p) FROM s.parent p",
            "view s.of_f uses function s.f(s.parent), which uses the row type of s.parent",
        ),
        (
            "CREATE FUNCTION s.f(int, s.child) RETURNS int LANGUAGE sql AS 'SELECT 1';"
            "CREATE AGGREGATE s.g (s.child) (SFUNC = s.f, STYPE = int)",
            "function s.g(s.child) uses the row type of s.child",
        ),
        (
            "CREATE TABLE s.log (what s.child[])",
            "column what of table s.log uses the row type of s.child",
        ),
        (
            "CREATE FUNCTION s.f() RETURNS bigint LANGUAGE sql"
            " BEGIN ATOMIC SELECT count(name) FROM s.parent; END",
            "function s.f() uses column name of s.parent, which goes away",
        ),
        (
            "CREATE FUNCTION s.f(uuid) RETURNS text LANGUAGE sql AS 'SELECT name FROM s.parent WHERE n = 1'",
            "function s.f(uuid) mentions column name of s.parent, which goes away",
        ),
        (
            "CREATE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN NEW.name := NEW.n; RETURN NEW; END';"
            "CREATE TRIGGER t BEFORE INSERT ON s.parent FOR EACH ROW EXECUTE FUNCTION s.f()",
            "function s.f() mentions column name of s.parent, which goes away",
        ),
        (
            "CREATE PUBLICATION everything FOR ALL TABLES",
            "publication everything publishes all tables, the new ones beside the old ones too",
        ),
        (
            "ALTER TABLE s.child ALTER COLUMN parent SET DEFAULT '00000000-0000-0000-0000-000000000001'",
            "the default of s.child.parent is an old key: '00000000-0000-0000-0000-000000000001'::uuid",
        ),
    ],
)
def test_what_cannot_be_carried_is_named(parent: Target, script: str, expected: str) -> None:
    assert expected in problems(parent, script)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("ALTER TABLE s.parent ADD CHECK (id <> gen_random_uuid())", "check parent_id_check of s.parent"),
        (
            "CREATE INDEX half ON s.parent (n) WHERE id > '00000000-0000-0000-0000-000000000001'",
            "index half of s.parent",
        ),
        ("ALTER TABLE s.parent ADD g text GENERATED ALWAYS AS (md5(id::text || n)) STORED", "s.parent.g"),
        ("CREATE STATISTICS s.st ON (id::text), n FROM s.parent", "statistics object s.st"),
        (
            "CREATE FUNCTION s.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            "CREATE TRIGGER t AFTER UPDATE ON s.parent FOR EACH ROW WHEN (OLD.id > NEW.id)"
            " EXECUTE FUNCTION s.t()",
            "trigger t of s.parent",
        ),
        (
            "ALTER TABLE s.parent ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY p ON s.parent USING (id = '00000000-0000-0000-0000-000000000001')",
            "policy p of s.parent",
        ),
    ],
)
def test_what_loses_its_column_is_named(database: DatabaseFactory, script: str, expected: str) -> None:
    """A surrogate of one column becomes a key of two: an expression over it has no equivalent."""
    target = database("empty")
    run_script(target, PARENT)
    text = TO_NAME.replace('[[key.new]]\nname = "key"', '[[key.new]]\nname = "n"\n[[key.new]]\nname = "key"')
    found = problems(target, script, text)
    assert any(expected in problem and "goes away" in problem for problem in found), found


def test_what_does_not_fit_the_new_type_is_found_by_trying(parent: Target) -> None:
    found = problems(
        parent,
        "CREATE FUNCTION s.even(uuid) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';"
        "ALTER TABLE s.parent ADD CONSTRAINT even CHECK (s.even(id))",
        TO_TEXT,
    )
    assert len(found) == 1
    assert "s.even(text) does not exist" in found[0]


def test_nothing_is_refused_twice_and_nothing_is_left(parent: Target) -> None:
    before = schema_dump(parent)
    assert problems(parent, "", TO_TEXT) == []
    with session_of(parent) as session:
        graph = graph_of(session, TO_TEXT)
        shadow.create(session, graph)
        assert refuse.problems(session, graph) == []
    assert schema_dump(parent) == before


def test_an_identity_cannot_become_text(database: DatabaseFactory) -> None:
    target = database("empty")
    run_script(
        target, "CREATE SCHEMA s; CREATE TABLE s.parent (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)"
    )
    text = TO_TEXT.replace("replace(id::text, '-', '')", "'c' || id").replace(
        "id::uuid", "substr(id, 2)::int"
    )
    assert problems(target, "", text) == [
        "identity column s.parent.id would be text, which can be no identity"
    ]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "CREATE TABLE s.part (id int, parent uuid REFERENCES s.parent) PARTITION BY RANGE (id)",
            "s.part is partitioned",
        ),
        (
            "CREATE UNLOGGED TABLE s.quick (parent uuid REFERENCES s.parent)",
            "s.quick is not an ordinary table",
        ),
    ],
)
def test_a_child_that_is_no_ordinary_table_is_named(parent: Target, script: str, expected: str) -> None:
    with pytest.raises(CheckFailed, match=expected):
        problems(parent, script)


def test_an_index_without_columns_left_and_a_broken_one_are_left_out_and_named(parent: Target) -> None:
    run_script(parent, "CREATE INDEX broken ON s.child (n); CREATE UNIQUE INDEX name_too ON s.parent (name);")
    with session_of(parent) as session:
        session.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 's.broken'::regclass")
        graph = graph_of(session, TO_NAME)
        assert build.dropped(session, graph) == [
            "index name_too of s.parent: it would be the same as parent_pkey",
            "index broken of s.child: it is not valid",
        ]


def test_tasks_name_what_cannot_be_rewritten(parent: Target) -> None:
    run_script(
        parent, "CREATE INDEX half ON s.child (n) WHERE parent > '00000000-0000-0000-0000-000000000001'"
    )
    text = TO_NAME.replace('[[key.new]]\nname = "key"', '[[key.new]]\nname = "n"\n[[key.new]]\nname = "key"')
    with session_of(parent) as session:
        graph = graph_of(session, text)
        with pytest.raises(CannotRewrite, match=r"index half of s\.child uses column parent"):
            build.tasks(session, graph)
