"""What stands in the way of migration 008 besides data: views, slots, locks, privileges."""

from __future__ import annotations

import pytest
from tests.servers import DatabaseFactory
from tests.sqlfiles import (
    MIGRATION,
    MIGRATIONS,
    PRE_CHECKS,
    RECORD,
    check,
    dump,
    migrate,
    prepare,
    psql,
)

from mandate.postgres.connection import connect
from mandate.postgres.script import Statement, read

FIXES = MIGRATIONS / "fixes"
FINANCE = "d0000001-0000-4000-8000-000000000001"

OBJECTS = {
    "view": (
        "CREATE VIEW by_domain AS SELECT domain_id, count(*) FROM decision_events GROUP BY 1",
        "by_domain",
    ),
    "materialized view": (
        "CREATE MATERIALIZED VIEW scoped AS SELECT scope_id FROM verdict_events",
        "scoped",
    ),
    "function body": (
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE plpgsql AS"
        " 'BEGIN RETURN (SELECT count(domain_id) FROM mandate.scopes); END'",
        "function mandate.f()",
    ),
    "policy": (
        "CREATE POLICY mine ON scopes USING (domain_id IS NOT NULL)",
        "policy mine on table mandate.scopes",
    ),
    "rule": (
        "CREATE RULE r AS ON INSERT TO organizations DO ALSO SELECT domain_id FROM mandate.scopes",
        "rule r on table mandate.organizations",
    ),
    "trigger": (
        "CREATE TRIGGER t BEFORE UPDATE OF domain_id ON scopes"
        " FOR EACH ROW EXECUTE FUNCTION prevent_mutation()",
        "trigger t on table mandate.scopes",
    ),
    "foreign key of an extra table": (
        "CREATE TABLE owners (id int PRIMARY KEY, scope uuid REFERENCES scopes)",
        "owners_scope_fkey",
    ),
    "foreign key to the name": (
        "CREATE TABLE owners (org uuid, name text,"
        " FOREIGN KEY (org, name) REFERENCES domains (organization_id, name))",
        "owners_org_name_fkey",
    ),
    "generated column": (
        "ALTER TABLE scopes ADD COLUMN g text GENERATED ALWAYS AS (domain_id::text || 'x') STORED",
        "column g of table mandate.scopes",
    ),
    "partial index": (
        f"CREATE INDEX partial ON decision_events (actor) WHERE domain_id = '{FINANCE}'",
        "index mandate.partial",
    ),
    "extra table with such a column": ("CREATE TABLE owners (domain_id int)", "table mandate.owners"),
    "row type": ("CREATE TABLE public.owners (scope mandate.scopes)", "column scope of table public.owners"),
    "unique constraint on the text": (
        "ALTER TABLE verdict_events ADD CONSTRAINT once UNIQUE (domain, decision_id)",
        "constraint once on table mandate.verdict_events",
    ),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_that_mention_a_column_are_named(database: DatabaseFactory, kind: str) -> None:
    create, name = OBJECTS[kind]
    target = database("v7")
    prepare(target, f"SET search_path = mandate; {create};")
    failed, output = check(target)
    assert failed == {"dependent_objects"}
    assert any("dependent_objects" in line and name in line for line in output.splitlines()), output


def test_the_fix_for_views_prints_their_definitions(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(target, OBJECTS["view"][0] + "; CREATE VIEW busy AS SELECT * FROM by_domain WHERE count > 9;")
    printed = psql(target, FIXES / "008_dependent_objects.sql").stdout
    dropping, creating = printed.split("-- after the migration")
    assert dropping.index("DROP VIEW mandate.busy;") < dropping.index("DROP VIEW mandate.by_domain;")
    prepare(target, dropping)
    assert check(target)[0] == set()
    assert psql(target, MIGRATION).returncode == 0
    prepare(target, ("-- " + creating).replace("domain_id", "domain"))
    with connect(target) as session:
        assert session.value("SELECT count(*) FROM busy") == 0


def test_an_object_that_was_overlooked_stops_the_migration_whole(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(target, RECORD, OBJECTS["view"][0] + ";")
    before = dump(target)
    refused = psql(target, MIGRATION)
    assert refused.returncode == 3
    assert "by_domain" in refused.stderr
    assert dump(target) == before


def test_inheritance_is_named_and_refused(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(target, "CREATE TABLE old_decisions () INHERITS (decision_events);")
    failed, output = check(target)
    assert "inheritance" in failed
    assert "old_decisions" in output
    assert "has inheritance children" in psql(target, MIGRATION).stderr


def test_publications_and_slots_are_named(database: DatabaseFactory) -> None:
    target = database("v7")
    slot = f"slot_{target.database}"
    prepare(
        target,
        f"""CREATE PUBLICATION feed FOR TABLE decision_events;
            SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput');""",
    )
    try:
        failed, output = check(target)
        assert failed == {"publications", "replication_slots"}
        assert '"publication feed"' in output
        assert f'"slot {slot}"' in output
        for name in ("publications", "replication_slots"):
            prepare(target, psql(target, FIXES / f"008_{name}.sql").stdout)
        assert check(target)[0] == set()
    finally:
        prepare(
            target,
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            f" WHERE slot_name = '{slot}';",
        )


def test_open_and_prepared_transactions_are_named(database: DatabaseFactory) -> None:
    target = database("v7")
    at_once = {"PGOPTIONS": "-c mandate.long_transaction=0s"}
    prepare(target, f"BEGIN; SELECT count(*) FROM decision_events; PREPARE TRANSACTION '{target.database}';")
    with connect(target, application_name="sleeper") as session, session.transaction():
        session.execute("SELECT 1")
        assert check(target)[0] == {"prepared_transactions"}
        failed, output = check(target, at_once)
        assert failed == {"prepared_transactions", "long_transactions"}
        assert f'"pid {session.pid}"' in output
        commands = psql(target, FIXES / "008_long_transactions.sql").stdout
        assert f"pg_terminate_backend({session.pid})" in commands
    command = psql(target, FIXES / "008_prepared_transactions.sql").stdout
    assert command.startswith(f"ROLLBACK PREPARED '{target.database}';")
    prepare(target, command)
    assert check(target, at_once)[0] == set()


def test_a_role_that_may_not_alter_the_tables_is_told(database: DatabaseFactory) -> None:
    target = database("v7")
    role = f"reader_{target.database}"
    prepare(
        target,
        f"""CREATE ROLE {role}; GRANT USAGE ON SCHEMA mandate TO {role};
            GRANT SELECT ON ALL TABLES IN SCHEMA mandate TO {role};""",
    )
    try:
        as_role = {"PGOPTIONS": f"-c role={role}"}
        failed, output = check(target, as_role)
        assert failed == {"privileges"}
        assert f"belongs to postgres, not to {role}" in output
        assert "GRANT postgres TO" in psql(target, FIXES / "008_privileges.sql", environment=as_role).stdout
    finally:
        prepare(target, f"DROP OWNED BY {role}; DROP ROLE {role};")


def test_views_of_a_pre_check_that_is_open_elsewhere_do_not_matter(database: DatabaseFactory) -> None:
    """A psql left open after the pre-checks, or killed with its server, still has temporary views."""
    target = database("v7")
    with connect(target) as elsewhere:
        for part in read(PRE_CHECKS):
            if isinstance(part, Statement):
                elsewhere.execute(part.sql.encode())
        assert check(target)[0] == set()
        migrate(target)
