"""Broken data and hindrances: the pre-check names them, the migration refuses, the fix works."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.servers import DatabaseFactory
from tests.sqlfiles import (
    EXAMPLE,
    MIGRATION,
    MIGRATIONS,
    PRE_CHECKS,
    RECORD,
    REFERENCE,
    REPLICA,
    VERIFICATION,
    check,
    dump,
    prepare,
    psql,
    results,
)

from mandate.postgres.connection import connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.postgres.script import Echo, Statement, read

FIXES = MIGRATIONS / "fixes"
NOWHERE = "eeeeeeee-0000-4000-8000-00000000000e"
FINANCE = "d0000001-0000-4000-8000-000000000001"
LOGISTICS = "d0000002-0000-4000-8000-000000000002"
# The 11th decision is of `finance` in Example, scope 5c000002.
DECISION, VERDICT, ENTRY = "md5('decision11')::uuid", "md5('verdict11')::uuid", "md5('entry111')::uuid"


@dataclass(frozen=True)
class Break:
    """SQL that breaks a good record, a word that must be shown, and what to ask after fix and migration."""

    sql: str
    shows: str
    after: str = "SELECT 'so'"
    answer: str = "so"
    also: tuple[str, ...] = ()
    migrates_anyway: bool = False


def snapshot_77(policies: str) -> str:
    return (
        "INSERT INTO policy_snapshots (snapshot_id, version, policies, organization_id, domain_id)"
        f" VALUES (gen_random_uuid(), 77, '{policies}', '{EXAMPLE}', '{FINANCE}');"
    )


BREAKS = {
    "domain_id_null": Break(
        f"UPDATE decision_events SET domain_id = NULL WHERE decision_id = {DECISION};"
        f"UPDATE audit_timeline_entries SET domain_id = NULL WHERE entry_id = {ENTRY};"
        f"UPDATE verdict_events SET domain_id = NULL, domain = 'finance' WHERE verdict_id = {VERDICT};"
        "UPDATE scopes SET domain_id = NULL WHERE scope_id = '5c000001-0000-4000-8000-000000000001';",
        "decision_events",
        f"SELECT domain FROM decision_events WHERE decision_id = {DECISION}",
        "finance",
    ),
    "domain_name_null": Break(
        "ALTER TABLE domains ALTER name DROP NOT NULL;"
        f"UPDATE domains SET name = NULL WHERE domain_id = '{FINANCE}';"
        "UPDATE verdict_events SET domain = NULL WHERE verdict_id <> md5('verdict20')::uuid;",
        FINANCE,
        f"SELECT domain FROM decision_events WHERE decision_id = {DECISION}",
        "finance",
    ),
    "organization_id_null": Break(
        f"UPDATE verdict_events SET organization_id = NULL WHERE verdict_id = {VERDICT};"
        "UPDATE policy_snapshots SET organization_id = NULL WHERE version = 2;",
        "verdict_events",
        f"SELECT organization_id FROM verdict_events WHERE verdict_id = {VERDICT}",
        EXAMPLE,
    ),
    "domain_name_not_slug": Break(
        "UPDATE domains SET name = 'Finance & Billing' WHERE name = 'hr';"
        "UPDATE mandate_specs SET domain = 'Finance & Billing' WHERE spec_id = 'infrastructure.deploy';"
        "UPDATE verdict_events SET domain = 'Finance & Billing' WHERE domain = 'hr';"
        """UPDATE policy_snapshots SET policies = '[{"domain": "Finance & Billing"}]' WHERE version = 2;""",
        "Finance & Billing",
        "SELECT string_agg(DISTINCT d, ',') FROM (SELECT domain FROM domains WHERE domain ~ 'billing'"
        " UNION ALL SELECT domain FROM mandate_specs WHERE spec_id = 'infrastructure.deploy' UNION ALL"
        " SELECT policies #>> '{0,domain}' FROM policy_snapshots WHERE version = 2) x (d)",
        "finance-billing",
    ),
    "domain_name_collision": Break(
        "UPDATE domains SET name = 'Finance' WHERE name = 'hr';"
        "UPDATE verdict_events SET domain = 'Finance' WHERE domain = 'hr';",
        '"becomes":"finance"',
        f"SELECT string_agg(domain, ',' ORDER BY domain) FROM domains"
        f" WHERE organization_id = '{EXAMPLE}' AND domain ~ '^fin'",
        "finance,finance-2",
        also=("domain_name_not_slug",),
    ),
    "domain_name_duplicate": Break(
        "ALTER TABLE domains DROP CONSTRAINT domains_organization_id_name_key;"
        "UPDATE domains SET name = 'finance', created_at = created_at + interval '1 day' WHERE name = 'hr';"
        "UPDATE verdict_events SET domain = 'finance' WHERE domain = 'hr';",
        "d0000005-0000-4000-8000-000000000005",
        f"SELECT string_agg(domain, ',' ORDER BY domain) FROM domains"
        f" WHERE organization_id = '{EXAMPLE}' AND domain ~ '^fin'",
        "finance,finance-d0000005",
    ),
    "domain_mapping_ambiguous": Break(
        "CREATE SCHEMA mandate_conductor; CREATE TABLE mandate_conductor.migration_008_domain_names"
        " (organization_id uuid, old_name text NOT NULL, new_name text NOT NULL);"
        "INSERT INTO mandate_conductor.migration_008_domain_names"
        " VALUES (NULL, 'hr', 'people'), (NULL, 'hr', 'hr2');",
        "hr2, people",
        "SELECT new_key FROM identity_map WHERE old_key = 'd0000005-0000-4000-8000-000000000005'",
        "hr2",
        migrates_anyway=True,
    ),
    "orphan_domain": Break(
        f"UPDATE decision_events SET domain_id = '{NOWHERE}' WHERE decision_id = {DECISION};",
        NOWHERE,
        f"SELECT domain FROM decision_events WHERE decision_id = {DECISION}",
        "recovered-eeeeeeee",
    ),
    "orphan_organization": Break(
        f"INSERT INTO domains (domain_id, organization_id, name) VALUES ('{NOWHERE}', '{NOWHERE}', 'lost');",
        NOWHERE,
        f"SELECT name FROM organizations WHERE organization_id = '{NOWHERE}'",
        "recovered-eeeeeeee",
    ),
    "orphan_scope": Break(
        f"UPDATE verdict_events SET scope_id = '{NOWHERE}' WHERE verdict_id = {VERDICT};",
        NOWHERE,
        f"SELECT scope_id FROM verdict_events WHERE verdict_id = {VERDICT}",
        f"finance.recovered-{NOWHERE}",
    ),
    "orphan_decision": Break(
        f"DELETE FROM decision_events WHERE decision_id = {DECISION};",
        "audit_timeline_entries",
        f"SELECT concat_ws(' ', domain, intent, context) FROM decision_events WHERE decision_id = {DECISION}",
        'finance intent-2 {"recovered": "before migration 008"}',
    ),
    "orphan_snapshot": Break(
        f"UPDATE verdict_events SET snapshot_id = '{NOWHERE}' WHERE verdict_id = {VERDICT};",
        NOWHERE,
        "SELECT concat_ws(' ', domain, version, policies) FROM policy_snapshots"
        f" WHERE snapshot_id = '{NOWHERE}'",
        "finance 0 []",
    ),
    "organization_mismatch": Break(
        "UPDATE decision_events SET organization_id = '00000000-0000-0000-0000-000000000002'"
        f" WHERE decision_id = {DECISION};",
        "decision_events",
        f"SELECT organization_id FROM decision_events WHERE decision_id = {DECISION}",
        EXAMPLE,
    ),
    "domain_text_contradiction": Break(
        f"UPDATE verdict_events SET domain = 'logistics' WHERE verdict_id = {VERDICT};"
        "ALTER TABLE decision_events ADD COLUMN domain varchar(40);"
        f"UPDATE decision_events SET domain = 'hr' WHERE decision_id = {DECISION};",
        "name_of_domain_id",
        f"SELECT domain FROM verdict_events WHERE verdict_id = {VERDICT}",
        "finance",
    ),
    "scope_domain_mismatch": Break(
        # one whose decision agrees with the scope, one whose decision does not
        f"UPDATE verdict_events SET domain_id = '{LOGISTICS}', domain = NULL WHERE verdict_id = {VERDICT};"
        "UPDATE verdict_events SET scope_id = '5c000006-0000-4000-8000-000000000006'"
        " WHERE verdict_id = md5('verdict21')::uuid;",
        "scope_domain_id",
        f"SELECT domain || ' ' || scope_id FROM verdict_events WHERE verdict_id = {VERDICT}",
        "finance finance.default",
    ),
    "policy_scope_unknown": Break(
        snapshot_77(f'[{{"id": "p", "scope_id": "{NOWHERE.upper()}"}}]'),
        NOWHERE.upper(),
        "SELECT policies #>> '{0,scope_id}' FROM policy_snapshots WHERE version = 77",
        f"finance.recovered-{NOWHERE}",
    ),
    "policy_domain_unknown": Break(
        snapshot_77(
            f'[{{"id": "p", "domain_id": "{NOWHERE}"}}, {{"id": "q", "domain": "gone"}},'
            f' {{"id": "r", "domain": "hr", "domain_id": "{LOGISTICS}"}}]'
        ),
        "contradict each other",
        "SELECT jsonb_path_query_array(policies, '$[*].domain') FROM policy_snapshots WHERE version = 77",
        '["finance", "finance", "logistics"]',
    ),
    "leftovers": Break(
        "CREATE TABLE identity_map (kind text); INSERT INTO identity_map VALUES ('kept');"
        "CREATE INDEX idx_verdict_events_scope_id_text ON verdict_events ((scope_id::text));"
        "CREATE SCHEMA mandate_rekey_008; CREATE FUNCTION mandate_rekey_008.capture() RETURNS trigger"
        " LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER zzzz_mandate_008 AFTER INSERT ON decision_events"
        " FOR EACH ROW EXECUTE FUNCTION mandate_rekey_008.capture();",
        "table mandate.identity_map",
        "SELECT kind FROM mandate_conductor.leftover_008_identity_map",
        "kept",
    ),
    "mutation_triggers_off": Break(
        "ALTER TABLE domains DISABLE TRIGGER prevent_domains_mutation;",
        "prevent_domains_mutation",
        migrates_anyway=True,
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_found_refused_fixed_and_migrated(database: DatabaseFactory, name: str) -> None:
    broken = BREAKS[name]
    target = database("v7")
    prepare(target, RECORD, REPLICA + broken.sql)

    failed, output = check(target)
    assert failed == {name, *broken.also}, output
    assert any(name in line and broken.shows in line for line in output.splitlines()), output

    before = dump(target)
    if not broken.migrates_anyway:
        refused = psql(target, MIGRATION)
        assert refused.returncode == 3
        assert "ERROR:  " in refused.stderr
        assert dump(target) == before

    fix = psql(target, FIXES / f"008_{name}.sql")
    assert fix.returncode == 0, fix.stderr
    failed, output = check(target)
    assert failed == set(), output
    with connect(target) as session:
        kept = session.value("SELECT count(*) FROM mandate_conductor.repairs WHERE check_id = %s", (name,))
        assert kept > 0
        assert session.value("SELECT bool_and(tgenabled = 'O') FROM pg_trigger WHERE tgname ~ '^prevent'")

    done = psql(target, MIGRATION)
    assert done.returncode == 0, done.stderr
    assert "verification: PASS\n" in psql(target, VERIFICATION).stdout
    answer = psql(target, f"\\pset tuples_only on\n\\pset format unaligned\n{broken.after};").stdout
    assert answer.splitlines()[-1] == broken.answer


def test_scopes_whose_ids_cannot_be_keys(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(
        target,
        f"""INSERT INTO scopes (scope_id, organization_id, domain_id, environment, service) VALUES
            ('{NOWHERE}', '{EXAMPLE}', '{FINANCE}', repeat('long', 330), repeat('text', 330));""",
    )
    failed, output = check(target)
    assert failed == {"scope_id_unusable"}
    assert NOWHERE in output
    assert NOWHERE in psql(target, FIXES / "008_scope_id_unusable.sql").stdout


def test_a_mapping_for_one_organization_outweighs_one_for_all(database: DatabaseFactory) -> None:
    target = database("v7")
    prepare(
        target,
        RECORD,
        f"""CREATE SCHEMA mandate_conductor; CREATE TABLE mandate_conductor.migration_008_domain_names
            (organization_id uuid, old_name text NOT NULL, new_name text NOT NULL);
            INSERT INTO mandate_conductor.migration_008_domain_names VALUES
            (NULL, 'finance', 'money'), ('{EXAMPLE}', 'finance', 'treasury'), (NULL, 'nobody', 'knows');""",
    )
    assert check(target)[0] == set()
    assert psql(target, MIGRATION).returncode == 0
    assert "verification: PASS\n" in psql(target, VERIFICATION).stdout
    with connect(target) as session:
        keys = {
            row["old_key"][:8]: row["new_key"]
            for row in session.rows("SELECT old_key, new_key FROM identity_map WHERE kind = 'domain'")
        }
        assert (keys["d0000001"], keys["d0000006"]) == ("treasury", "money")
        assert (
            session.value("SELECT domain FROM mandate_specs WHERE spec_id = 'finance.refund'") == "treasury"
        )
        assert '"old_name": "finance"' in session.value("SELECT description FROM migration_log")
        assert session.value("SELECT count(*) FROM scopes WHERE scope_id ~ '^treasury[.]'") == 2


def test_information_is_counted_and_fails_nothing(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("v7", server=any_postgres)
    prepare(
        target,
        RECORD,
        f"{REPLICA} UPDATE audit_timeline_entries SET domain_id = '{LOGISTICS}' WHERE entry_id = {ENTRY};",
    )
    failed, output = check(target)
    assert failed == set()
    found = results(output)
    assert found["audit_timeline_entries attributed otherwise than their decision (information)"] == "1"
    assert found["decision_events.context with a domain_id or scope_id (information)"] == "40"
    assert found["decision_events.scope with a domain_id or scope_id (information)"] == "40"
    assert found["audit_timeline_entries.details with a domain_id or scope_id (information)"] == "80"
    assert found["scopes that need a UUID suffix (information)"] == "3"
    assert int(found["disk space needed, bytes (information)"]) > 0


def test_it_prints_what_the_guide_prints(any_postgres: EmbeddedServer, database: DatabaseFactory) -> None:
    output = psql(database("v7", server=any_postgres), PRE_CHECKS).stdout
    assert output.startswith(
        "=== CHECK 1: Domain Data Availability ===\n"
        "domains table row count: 5\n"
        "domain_id NULL count: 0\n"
        "name (future domain) NULL count: 0\n"
    )
    assert (
        "\n\n=== CHECK 2: Orphaned Foreign Keys ===\n"
        "scopes.domain_id -> domains.domain_id orphans: 0\n"
        "policy_snapshots.domain_id -> domains.domain_id orphans: 0\n"
    ) in output
    assert (
        "\n\n=== MIGRATION READINESS SUMMARY ===\n"
        'If all "result" values are 0 (except for row counts), migration is SAFE to proceed.\n'
        "readiness: READY\n"
    ) in output
    assert output.count("\n=== CHECK ") == 6


@pytest.mark.parametrize("file", [PRE_CHECKS, VERIFICATION], ids=lambda path: path.name)
def test_checks_leave_nothing_behind_and_are_written_by_the_rules(
    database: DatabaseFactory, file: object
) -> None:
    parts = read(PRE_CHECKS if file == PRE_CHECKS else VERIFICATION)
    ids = [part.check for part in parts if isinstance(part, Statement) and part.check]
    assert len(ids) == len(set(ids)) > 20
    target = database("v7")
    before = dump(target)
    with connect(target) as session:
        for part in parts:
            if not isinstance(part, Echo):
                session.execute(part.sql.encode())
        names = session.rows("SELECT relname AS name FROM pg_class WHERE relname ~ '^bad_'")
        views = {row["name"] for row in names}
    zero = {part.check for part in parts if isinstance(part, Statement) and part.expect == "zero"}
    assert {f"bad_{check}" for check in zero} <= views
    assert dump(target) == before
    if file == PRE_CHECKS:
        assert {path.stem.removeprefix("008_") for path in FIXES.glob("008_*.sql")} == zero


def test_the_reference_is_of_this_migration(database: DatabaseFactory) -> None:
    assert dump(database("v8")) == REFERENCE.read_text("utf-8")
