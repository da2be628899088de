"""The verification of migration 008 finds what is wrong, on version 7 and on a damaged version 8."""

from __future__ import annotations

import pytest
from tests.servers import DatabaseFactory
from tests.sqlfiles import (
    EXAMPLE,
    REPLICA,
    VERIFICATION,
    prepare,
    psql,
    results,
)

from mandate.postgres.embedded import EmbeddedServer

pytestmark = pytest.mark.fast


def test_verification_fails_on_version_7_and_names_why(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("v7", server=any_postgres)
    done = psql(target, VERIFICATION)
    assert done.returncode == 0, done.stderr
    found = results(done.stdout)
    assert found["Remaining domain_id columns in mandate schema"] == "6"
    assert found["data_type"] == "uuid"
    assert found["scopes_with_domain_prefix_mismatch"] == "6"
    assert "domain_id_columns" in done.stdout.splitlines()[-1]
    assert "verification: FAIL" in done.stdout


def test_verification_prints_what_the_guide_prints(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    lines = psql(database("v8", server=any_postgres), VERIFICATION).stdout.splitlines()
    for text in (
        "=== VERIFICATION 1: domain_id Column Removal ===",
        "Remaining domain_id columns in mandate schema: 0",
        "=== VERIFICATION 2: Domain Column Configuration ===",
        "table_name | data_type",
        "scopes | text",
        "policy_snapshots | text",
        "=== VERIFICATION 3: scope_id Type Conversion ===",
        "data_type: text",
        "=== VERIFICATION 4: scope_id Domain Prefix Consistency ===",
        "scopes_with_domain_prefix_match: 6",
        "scopes_with_domain_prefix_mismatch: 0",
    ):
        assert text in lines
    assert sum(line.startswith("=== VERIFICATION ") for line in lines) == 15  # fourteen and the summary


DAMAGE = {
    "foreign_keys": "ALTER TABLE verdict_events DROP CONSTRAINT verdict_events_scope_id_fkey",
    "slug_constraints": "ALTER TABLE scopes DROP CONSTRAINT scopes_domain_slug_format",
    "indexes": "DROP INDEX idx_audit_timeline_organization_domain",
    "append_only": "ALTER TABLE identity_map DISABLE TRIGGER prevent_identity_map_truncate",
    "scope_prefix_trigger": "DROP TRIGGER validate_scopes_scope_id_domain_prefix ON scopes",
    "domain_id_columns": "ALTER TABLE mandate_specs ADD COLUMN domain_id int",
    "domain_column_configuration": "ALTER TABLE verdict_events ALTER domain DROP NOT NULL",
    "primary_keys": "ALTER TABLE migration_log DROP CONSTRAINT migration_log_pkey",
    "identity_map": "INSERT INTO identity_map (kind, old_key, new_key) VALUES ('scope', 'x', 'nothing')",
    "policy_keys": "INSERT INTO policy_snapshots (snapshot_id, version, organization_id, domain, policies)"
    f" VALUES (gen_random_uuid(), 9, '{EXAMPLE}', 'finance', '[{{\"scope_id\": \"gone\"}}]')",
    "scope_domain_prefix": f"{REPLICA} INSERT INTO scopes (scope_id, domain, organization_id)"
    f" VALUES ('x.y', 'finance', '{EXAMPLE}')",
    "orphans": f"{REPLICA} INSERT INTO policy_snapshots (snapshot_id, version, organization_id, domain,"
    f" policies) VALUES (gen_random_uuid(), 9, '{EXAMPLE}', 'gone', '[]')",
    "migration_log": f"{REPLICA} DELETE FROM migration_log",
}


@pytest.mark.parametrize("check", DAMAGE)
def test_verification_finds_damage(database: DatabaseFactory, check: str) -> None:
    target = database("v8")
    prepare(target, DAMAGE[check] + ";")
    done = psql(target, VERIFICATION)
    assert done.returncode == 0, done.stderr
    assert f"verification: FAIL: {check}\n" in done.stdout
