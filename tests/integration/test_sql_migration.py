"""Migration 008 by hand: every start shape ends in the reference schema, with every row where it belongs."""

from __future__ import annotations

import re
import subprocess
from typing import LiteralString

import pytest
from psycopg import sql
from tests.servers import DatabaseFactory
from tests.shapes import SHAPES, make
from tests.sqlfiles import (
    EXAMPLE,
    MIGRATION,
    OLD_ROWS,
    PRE_CHECKS,
    RECORD,
    REFERENCE,
    VERIFICATION,
    attribution,
    dump,
    failed_checks,
    migrate,
    prepare,
    psql,
    verify,
)

from mandate.postgres.connection import Session, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.postgres.script import Statement, read


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_ends_in_the_reference_schema(
    postgres: EmbeddedServer, database: DatabaseFactory, name: str
) -> None:
    ends_in_the_reference_schema(postgres, database, name)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_ends_there_on_every_server(
    any_postgres: EmbeddedServer, database: DatabaseFactory, name: str
) -> None:
    ends_in_the_reference_schema(any_postgres, database, name)


def test_every_server_ends_in_the_reference_schema(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    ends_in_the_reference_schema(any_postgres, database, "full")


def ends_in_the_reference_schema(server: EmbeddedServer, database: DatabaseFactory, name: str) -> None:
    shape = SHAPES[name]
    target = make(database, server, shape)
    checks = psql(target, PRE_CHECKS)
    assert checks.returncode == 0, checks.stderr
    assert failed_checks(checks.stdout) == set(), checks.stdout
    migrate(target)
    verify(target)
    if shape.extras:
        with connect(target) as session:
            assert session.value("SELECT count_notes()") == 1
            assert session.value("SELECT count(*) FROM recent") > 0
            assert session.value("SELECT count(*) FROM names") == 7
            assert '(domain, "timestamp" DESC) WHERE' in session.value(
                "SELECT indexdef FROM pg_indexes WHERE indexname = 'by_domain_time'"
            )
            assert 'lower(domain), "timestamp"' in session.value(
                "SELECT indexdef FROM pg_indexes WHERE indexname = 'by_text'"
            )
        prepare(target, shape.extras)
    assert dump(target) == REFERENCE.read_text("utf-8")


@pytest.mark.parametrize("as_owner", [False, True], ids=["as-superuser", "as-the-tables-owner"])
def test_privileges_trigger_states_and_owners_survive(database: DatabaseFactory, as_owner: bool) -> None:
    target = database("v7")
    owner, reader = f"owner_{target.database}", f"reader_{target.database}"
    prepare(
        target,
        RECORD,
        f"""
        CREATE ROLE {owner}; CREATE ROLE {reader};
        ALTER SCHEMA mandate OWNER TO {owner};
        GRANT USAGE ON SCHEMA mandate TO {reader};
        GRANT SELECT ON domains TO {reader};
        GRANT SELECT (decision_id, domain_id) ON decision_events TO {reader};
        GRANT SELECT (domain) ON verdict_events TO {reader};
        ALTER TABLE decision_events ENABLE ALWAYS TRIGGER prevent_decision_events_mutation;
        ALTER TABLE scopes ENABLE REPLICA TRIGGER prevent_scopes_mutation;
        DO $$ DECLARE t record; BEGIN
            FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'mandate' LOOP
                EXECUTE format('ALTER TABLE mandate.%I OWNER TO {owner}', t.tablename);
            END LOOP; END $$;
        """,
    )
    try:
        if as_owner:
            done = psql(target, MIGRATION, environment={"PGOPTIONS": f"-c role={owner}"})
            assert done.returncode == 0, done.stderr
        else:
            migrate(target)
        for readable in ("domain FROM decision_events", "domain FROM verdict_events"):
            prepare(target, f"SET ROLE {reader}; SELECT {readable};")
        prepare(target, f"SET ROLE {reader}; SELECT * FROM identity_map; SELECT * FROM migration_log;")
        assert psql(target, f"SET ROLE {reader}; SELECT intent FROM decision_events;").stderr.startswith(
            "ERROR:  permission denied"
        )
        with connect(target) as session:
            owners = session.rows(
                "SELECT DISTINCT tableowner AS name FROM pg_tables WHERE schemaname = 'mandate'"
            )
            assert [row["name"] for row in owners] == [owner]
            triggers = session.rows(
                "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgname ~ '^prevent'"
            )
            states = {row["tgname"]: row["tgenabled"] for row in triggers}
        assert states["prevent_decision_events_mutation"] == "A"
        assert states["prevent_scopes_mutation"] == "R"
        assert states["prevent_policy_snapshots_mutation"] == "O"
    finally:
        prepare(target, f"DROP OWNED BY {owner}, {reader} CASCADE; DROP ROLE {owner}, {reader};")


# Columns that the migration writes; everything else has to be as it was.
WRITTEN = {
    "organizations": [],
    "domains": ["domain_id", "name", "domain"],
    "scopes": ["scope_id", "domain_id", "domain"],
    "policy_snapshots": ["domain_id", "domain", "policies"],
    "decision_events": ["domain_id", "domain"],
    "verdict_events": ["domain_id", "domain", "scope_id"],
    "audit_timeline_entries": ["domain_id", "domain"],
    "mandate_specs": [],
}


def untouched(session: Session) -> dict[str, str]:
    """All rows of each table as text, without the columns that the migration writes."""
    query = sql.SQL(
        "SELECT string_agg(r, E'\\n' ORDER BY r COLLATE \"C\")"
        " FROM (SELECT (to_jsonb(t) - %s::text[])::text AS r FROM mandate.{} t) x"
    )
    return {
        table: session.value(query.format(sql.Identifier(table)), (columns,))
        for table, columns in WRITTEN.items()
    }


def test_every_row_says_the_same_in_the_new_words(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("v7", server=any_postgres)
    prepare(target, RECORD)
    with connect(target) as session:
        before = untouched(session)
        old = {table: attribution(session, table, "domain_id") for table in OLD_ROWS}
        domain_rows = session.rows("SELECT domain_id::text AS id, name FROM mandate.domains")
        names = {row["id"]: row["name"] for row in domain_rows}
    migrate(target)
    with connect(target) as session:
        assert untouched(session) == before
        maps = session.rows("SELECT kind, old_key, new_key FROM mandate.identity_map")
        domains = {row["old_key"]: row["new_key"] for row in maps if row["kind"] == "domain"}
        scopes = {row["old_key"]: row["new_key"] for row in maps if row["kind"] == "scope"}
        assert domains == names
        for table, rows in old.items():
            expected = {
                key: (names[domain], scope and scopes[scope]) for key, (domain, scope) in rows.items()
            }
            assert attribution(session, table, "domain") == expected
        ids = {row["scope_id"] for row in session.rows("SELECT scope_id FROM mandate.scopes")}
    assert ids == set(scopes.values())
    assert scopes == {
        "5c000001-0000-4000-8000-000000000001": "finance.prod.payments.refund-agent",
        "5c000002-0000-4000-8000-000000000002": "finance.default",
        "5c000003-0000-4000-8000-000000000003": "logistics.prod.dispatch.route-planner.wms",
        "5c000004-0000-4000-8000-000000000004": "customer-support.prod.tickets.eu",
        "5c000005-0000-4000-8000-000000000005": "infrastructure.staging.deploy.release-agent",
        "5c000006-0000-4000-8000-000000000006": "hr.workday",
        "5c100001-0000-4000-8000-000000000001": "finance.prod.pay-roll.bot-5c100001",
        "5c100002-0000-4000-8000-000000000002": "finance.prod.pay-roll.bot-5c100002",
        "5c100003-0000-4000-8000-000000000003": "finance.prod.pay-roll.bot-5c100003",
        "5c100004-0000-4000-8000-000000000004": "r_d.default",
    }


def test_policies_are_rewritten_in_place(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(target, RECORD)
    migrate(target)
    with connect(target) as session:
        policies = session.value(
            "SELECT policies FROM mandate.policy_snapshots"
            " WHERE snapshot_id = 'a1000001-0000-4000-8000-000000000001'"
        )
    assert policies == [
        {
            "id": "a",
            "scope_id": "finance.prod.pay-roll.bot-5c100001",
            "verdict": "BLOCK",
            "domain": "finance",
            "conditions": [],
        },
        {"id": "b", "scope_id": None, "domain": "finance", "verdict": "ALLOW"},
        "a remark",
    ]


def test_a_suffix_that_meets_another_scope_is_resolved(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(
        target,
        RECORD,
        """INSERT INTO scopes (scope_id, organization_id, domain_id, environment, service, agent) VALUES
           ('5c200001-0000-4000-8000-000000000001', '00000000-0000-0000-0000-000000000002',
            'd0000006-0000-4000-8000-000000000006', 'prod', 'pay-roll', 'bot-5c100001');""",
    )
    migrate(target)
    with connect(target) as session:
        keys = {
            row["old_key"][:8]: row["new_key"]
            for row in session.rows("SELECT old_key, new_key FROM mandate.identity_map WHERE kind = 'scope'")
        }
    assert keys["5c200001"] == "finance.prod.pay-roll.bot-5c100001"
    assert keys["5c100001"] == "finance.prod.pay-roll.bot-5c100001000040008000000000000001"
    assert keys["5c100002"] == "finance.prod.pay-roll.bot-5c100002"


FILES: LiteralString = """
SELECT relname, relfilenode, reltuples, relpages FROM pg_class
WHERE relnamespace = 'mandate'::regnamespace ORDER BY relname
"""


def test_running_it_again_says_so_and_changes_nothing(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("v7", server=any_postgres)
    prepare(target, RECORD)
    migrate(target)
    with connect(target) as session:
        files = session.rows(FILES)
    again = migrate(target)
    assert "Migration 008 is already applied: this database is at version 8. Nothing was changed." in again
    assert not re.search("UPDATE|ALTER|CREATE|INSERT", again)
    with connect(target) as session:
        assert files == session.rows(FILES)
        assert session.value("SELECT count(*) FROM mandate.migration_log") == 1
    assert dump(target) == REFERENCE.read_text("utf-8")
    checks = psql(target, PRE_CHECKS)
    assert checks.returncode == 0
    assert "readiness: ALREADY AT VERSION 8, nothing to migrate" in checks.stdout


def test_it_prints_what_the_guide_prints(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(target, RECORD)
    lines = migrate(target).splitlines()
    assert lines[:2] == ["BEGIN", "SET"]
    assert "UPDATE 10 (scopes.domain backfill)" in lines
    assert "UPDATE 6 (policy_snapshots.domain backfill)" in lines
    for start in ("ALTER TABLE", "CREATE FUNCTION", "CREATE TRIGGER", "CREATE INDEX"):
        assert any(line.startswith(start) for line in lines)
    assert "INSERT 0 1 (migration_log)" in lines
    assert lines.index("INSERT 0 1 (migration_log)") + 1 == lines.index("COMMIT")
    assert lines.count("ALTER TABLE (decision_events: rewritten once)") == 1


def test_each_large_table_is_rewritten_exactly_once(database: DatabaseFactory) -> None:
    """An event trigger counts the rewrites."""
    target = database("v7")
    prepare(
        target,
        RECORD,
        """CREATE TABLE public.rewrites (relation text);
           CREATE FUNCTION public.seen() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO public.rewrites VALUES (pg_event_trigger_table_rewrite_oid()::regclass::text);
           END $$;
           CREATE EVENT TRIGGER rewrites ON table_rewrite EXECUTE FUNCTION public.seen();""",
    )
    migrate(target)
    with connect(target) as session:
        seen = {
            row["relation"]: row["n"]
            for row in session.rows("SELECT relation, count(*) AS n FROM public.rewrites GROUP BY 1")
        }
    assert {table: n for table, n in seen.items() if "events" in table or "timeline" in table} == {
        "mandate.decision_events": 1,
        "mandate.verdict_events": 1,
        "mandate.audit_timeline_entries": 1,
    }


def test_update_delete_and_truncate_are_refused_everywhere(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(target, RECORD)
    migrate(target)
    tables = {
        "organizations": "name",
        "domains": "domain",
        "scopes": "service",
        "policy_snapshots": "version",
        "decision_events": "intent",
        "verdict_events": "owning_team",
        "audit_timeline_entries": "summary",
        "mandate_specs": "status",
        "identity_map": "new_key",
        "migration_log": "description",
    }
    for table, column in tables.items():
        for statement in (
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
            f"TRUNCATE {table} CASCADE",
        ):
            done = psql(target, f"\\set VERBOSITY verbose\n{statement};")
            assert "ERROR:  23001: IMMUTABILITY VIOLATION" in done.stderr, f"{statement}: {done.stderr}"


def test_the_guides_constraint_tests(database: DatabaseFactory) -> None:
    target = database("v8")

    def insert_domain(name: str) -> subprocess.CompletedProcess[str]:
        return psql(target, f"INSERT INTO domains (organization_id, domain)\nVALUES ('{EXAMPLE}', '{name}');")

    def insert_scope(scope: str, domain: str) -> subprocess.CompletedProcess[str]:
        return psql(
            target,
            "INSERT INTO scopes (scope_id, domain, organization_id, owning_team)\n"
            f"VALUES ('{scope}', '{domain}',\n        '{EXAMPLE}', 'Team');",
        )

    assert insert_domain("test-domain").stdout == "INSERT 0 1\n"
    assert 'new row for relation "domains" violates check constraint' in insert_domain("TEST-DOMAIN").stderr
    assert insert_scope("test-domain.prod.service.agent", "test-domain").stdout == "INSERT 0 1\n"
    assert insert_scope("test-domain.prod.service.other", "test-domain").stdout == "INSERT 0 1\n"
    refused = insert_scope("wrong-domain.prod.service.agent", "test-domain").stderr
    assert refused.startswith(
        "ERROR:  GOVERNANCE VIOLATION: scope_id 'wrong-domain.prod.service.agent' "
        "does not embed domain prefix 'test-domain'"
    )
    # An underscore is a wildcard in LIKE, and must not be one here.
    assert insert_domain("a_b").stdout == "INSERT 0 1\n"
    assert "GOVERNANCE VIOLATION" in insert_scope("axb.prod.service", "a_b").stderr
    assert "GOVERNANCE VIOLATION" in insert_scope("a_b", "a_b").stderr
    assert insert_scope("a_b.x", "a_b").stdout == "INSERT 0 1\n"
    assert "scopes_organization_domain_fkey" in insert_scope("nowhere.x", "nowhere").stderr


def test_the_three_files_in_one_session_of_a_driver(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("v7", server=any_postgres)
    prepare(target, RECORD)
    with connect(target) as session:
        for file in (PRE_CHECKS, MIGRATION, VERIFICATION):
            for part in read(file):
                if isinstance(part, Statement):
                    _, rows = session.fetch(part.sql.encode())
                    for row in rows if part.expect == "zero" else ():
                        assert row["result"] == 0, row
        assert session.value("SELECT count(*) FROM pg_proc WHERE proname ~ '^m008_'") == 0
        assert session.value("SELECT count(*) FROM pg_class WHERE relname ~ '^m008_'") == 0
    assert dump(target) == REFERENCE.read_text("utf-8")
