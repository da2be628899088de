"""Migration 009 by hand and on the engine: the same schema and rows, version 8 again afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.commands import mandate
from tests.integration.test_identity import clone
from tests.posting import decision, decision_point, post
from tests.servers import DatabaseFactory
from tests.sqlfiles import MIGRATIONS, dump, failed_checks, prepare, psql

from mandate.errors import CheckFailed, DatabaseError
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.progress import Silent
from mandate.rekey.fingerprint import fingerprint_schema
from mandate.runbook import identity, migrations, tenant_keys

PRE_CHECKS = MIGRATIONS / "009_PRE_MIGRATION_CHECKS.sql"
MIGRATION = MIGRATIONS / "009_tenant_keys.sql"
VERIFICATION = MIGRATIONS / "009_POST_MIGRATION_VERIFICATION.sql"
REFERENCE = MIGRATIONS / "reference" / "version_9_schema.sql"

REPLICA = "SET session_replication_role = replica; SET search_path = mandate;"
# Two organizations with a domain of the same name, and a second domain in the first.
TENANTS = """
INSERT INTO mandate.organizations (organization_id, name)
VALUES ('aaaaaaaa-0000-4000-8000-00000000000a', 'Tenant A'),
       ('aaaaaaaa-0000-4000-8000-00000000000b', 'Tenant B');
INSERT INTO mandate.domains (organization_id, domain)
VALUES ('aaaaaaaa-0000-4000-8000-00000000000a', 'pay'), ('aaaaaaaa-0000-4000-8000-00000000000a', 'ship'),
       ('aaaaaaaa-0000-4000-8000-00000000000b', 'pay');
"""
A, B = "'aaaaaaaa-0000-4000-8000-00000000000a'", "'aaaaaaaa-0000-4000-8000-00000000000b'"


def contents(target: Target) -> dict[str, str]:
    """Fingerprints of the record's tables; the log of migrations has times of its own."""
    with connect(target) as session:
        found = {name: str(each) for name, each in fingerprint_schema(session, ["mandate"]).items()}
    found.pop("mandate.migration_log")
    return found


def run(target: Target, file: Path) -> str:
    """What a file printed that ran without a complaint."""
    done = psql(target, file)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def event(number: str, organization: str, domain: str = "pay", scope: str | None = None) -> str:
    """A snapshot, a decision with a verdict and a timeline entry, as version 8's clients write them."""
    scoped = "NULL" if scope is None else f"'{scope}'"
    key = f"'0e0e0e0e-0000-4000-8000-00000000{number}'"
    return f"""
    INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, domain)
    VALUES ({key}, 1, '[]', {organization}, '{domain}');
    INSERT INTO mandate.decision_events
        (decision_id, intent, stage, actor, target, timestamp, organization_id, domain)
    VALUES ({key}, 'i', 'proposed', 'a', 't', now(), {organization}, '{domain}');
    INSERT INTO mandate.verdict_events
        (verdict_id, decision_id, snapshot_id, verdict, timestamp, organization_id, domain, scope_id)
    VALUES ({key}, {key}, {key}, 'ALLOW', now(), {organization}, '{domain}', {scoped});
    INSERT INTO mandate.audit_timeline_entries (entry_id, decision_id, intent, stage, actor, target, summary,
        severity, event_source, authority_level, timestamp, organization_id, domain)
    VALUES ({key}, {key}, 'i', 'proposed', 'a', 't', 's', 'info', 'system', 'system', now(), {organization},
            '{domain}');
    """


def scope(name: str, organization: str, team: str = "Team") -> str:
    return (
        "INSERT INTO mandate.scopes (scope_id, domain, organization_id, owning_team)"
        f" VALUES ('{name}', '{name.split('.')[0]}', {organization}, '{team}');"
    )


def spec(version: int, status: str, organization: str = A) -> str:
    return (
        "INSERT INTO mandate.mandate_specs (spec_id, version, organization_id, domain, intent, stage,"
        f" allowed_verdicts, status) VALUES ('s', {version}, {organization}, 'pay', 'i', 'proposed',"
        f" '{{ALLOW}}', '{status}');"
    )


def spec_event(event: str, version: int, position: str = "NULL") -> str:
    return (
        "INSERT INTO mandate.spec_events (organization_id, domain, intent, stage, event, spec_id, version,"
        f" position) VALUES ({A}, 'pay', 'i', 'proposed', '{event}', 's', {version}, {position});"
    )


def refused(session: Session, statement: str, sqlstate: str) -> None:
    with pytest.raises(DatabaseError) as caught, session.transaction():
        session.execute(statement.encode())
    assert caught.value.sqlstate == sqlstate, str(caught.value)


def test_the_engine_goes_forward_and_back_as_the_hand_run_file_does(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("v8-seeded", server=any_postgres)
    by_hand = clone(target, database, any_postgres)
    version_8, rows = dump(target), contents(target)
    assert failed_checks(run(by_hand, PRE_CHECKS)) == set()
    run(by_hand, MIGRATION)
    assert dump(by_hand) == REFERENCE.read_text("utf-8")
    engine = tenant_keys.engine(target, Silent())

    engine.run()
    assert contents(target) == contents(by_hand)
    assert "\nverification: PASS\n" in run(target, VERIFICATION)
    engine.rollback()
    assert dump(target) == version_8
    assert contents(target) == rows
    engine.run()
    engine.finalize()
    assert contents(target) == contents(by_hand)
    assert dump(target) == REFERENCE.read_text("utf-8")
    for each in (target, by_hand):
        assert "\nverification: PASS\n" in run(each, VERIFICATION)
        with connect(each) as session:
            assert migrations.schema_version(session) == 9
    assert "already applied" in run(target, MIGRATION)
    assert dump(target) == REFERENCE.read_text("utf-8")
    assert "ALREADY AT VERSION 9" in run(target, PRE_CHECKS)


def test_a_record_born_in_the_reverse_window_goes_back_and_forth(database: DatabaseFactory) -> None:
    target = database("v8")
    prepare(target, TENANTS, scope("pay.a", A), spec(1, "active"), spec(2, "draft"), event("0001", A))
    engine = tenant_keys.engine(target, Silent())
    engine.run()
    prepare(target, scope("pay.b", A, "Night"), event("0002", A, scope="pay.b"), spec(3, "active"))
    prepare(target, spec_event("activated", 2), event("0003", B))
    with connect(target) as session:
        # What version 8 could not hold is refused as long as there is a way back to it.
        refused(session, scope("pay.a", B), "23505")
        team = "SELECT owning_team FROM mandate.verdict_events WHERE scope_id = 'pay.b'"
        assert session.value(team) == "Night"
    events = "SELECT position, event, spec_id, version, at FROM mandate.spec_events WHERE spec_id = 's'"
    statuses = "SELECT version, status FROM mandate.mandate_specs WHERE spec_id = 's' ORDER BY 1"
    with connect(target) as session:
        recorded = session.rows(events)
    before = contents(target)

    engine.rollback()
    with connect(target) as session:
        assert session.value(team) == "Night"
        found = {row["version"]: row["status"] for row in session.rows(statuses)}
        assert found == {1: "deprecated", 2: "active", 3: "deprecated"}
        refused(session, spec(4, "active"), "23505")
        assert migrations.schema_version(session) == 8
    engine.run()
    with connect(target) as session:
        assert session.rows(events) == recorded
    after = contents(target)
    differ = {name for name in after if after[name] != before[name]}
    # received_at was left behind, and status says what the events do.
    assert differ <= {"mandate.mandate_specs", "mandate.decision_events"}
    engine.finalize()
    prepare(target, scope("pay.a", B))


def test_version_9_keeps_tenants_and_domains_apart(database: DatabaseFactory) -> None:
    target = database("v8")
    run(target, MIGRATION)
    prepare(
        target,
        TENANTS,
        scope("pay.x", A, "Team A"),
        scope("pay.x", B, "Team B"),
        event("0001", A, scope="pay.x"),
    )
    prepare(target, event("0001", B, scope="pay.x"), event("0002", A, "ship"))
    with connect(target) as session:
        teams = session.rows("SELECT owning_team FROM mandate.verdict_events ORDER BY 1 NULLS FIRST")
        assert [row["owning_team"] for row in teams] == [None, "Team A", "Team B"]
        later = "SELECT count(*) FROM mandate.decision_events WHERE received_at IS NULL"
        assert session.value(later) == 0
        verdict = (
            "INSERT INTO mandate.verdict_events (verdict_id, decision_id, snapshot_id, verdict, timestamp,"
            " organization_id, domain, scope_id) VALUES (gen_random_uuid(),"
            " '0e0e0e0e-0000-4000-8000-0000000000{}', '0e0e0e0e-0000-4000-8000-0000000000{}', 'ALLOW', now(),"
            " {}, '{}', {});"
        )
        refused(session, verdict.format("02", "02", B, "pay", "NULL"), "23503")
        refused(session, verdict.format("02", "02", A, "pay", "NULL"), "23503")
        refused(session, verdict.format("01", "02", A, "pay", "NULL"), "23503")
        refused(session, verdict.format("02", "02", A, "ship", "'pay.x'"), "23503")


def test_specs_are_superseded_and_retired_by_events(database: DatabaseFactory) -> None:
    target = database("v8")
    run(target, MIGRATION)
    prepare(target, TENANTS, spec(1, "active"), spec(2, "draft"), spec(3, "active"), spec(1, "active", B))
    with connect(target) as session:
        rows = session.rows(
            "SELECT position, version FROM mandate.spec_events WHERE spec_id = 's' AND organization_id ="
            f" {A} ORDER BY 1"
        )
        assert [(row["position"], row["version"]) for row in rows] == [(1, 1), (2, 3)]
        refused(session, spec_event("retired", 1), "23514")
        refused(session, spec_event("activated", 2, "7"), "23514")
        refused(session, spec_event("activated", 2, "2"), "23514")
        refused(session, spec_event("activated", 9), "23503")
        refused(session, spec_event("deleted", 3), "23514")
        session.execute(spec_event("retired", 3).encode())
        refused(session, spec_event("retired", 3), "23514")
        session.execute(spec_event("activated", 2).encode())
        refused(session, "UPDATE mandate.spec_events SET reason = 'x'", "23001")
        refused(session, "TRUNCATE mandate.spec_events", "23001")


BROKEN = {
    "no_organization": "INSERT INTO identity_map (kind, old_key, new_key) VALUES ('scope', 'x', 'y');",
    "other_decision": f"UPDATE audit_timeline_entries SET organization_id = {B}"
    " WHERE entry_id = '0e0e0e0e-0000-4000-8000-000000000001';",
    "other_snapshot": "UPDATE policy_snapshots SET domain = 'ship';",
    "other_scope": f"UPDATE scopes SET organization_id = {B} WHERE scope_id = 'pay.a';",
    "foreign_keys": "CREATE TABLE notes (id int PRIMARY KEY, about uuid REFERENCES decision_events);",
    "partitions": "CREATE TABLE more () INHERITS (scopes);",
}


@pytest.mark.parametrize("check", BROKEN)
def test_what_does_not_fit_is_named_and_refused(database: DatabaseFactory, check: str) -> None:
    target = database("v8")
    prepare(target, TENANTS, scope("pay.a", A), event("0001", A, scope="pay.a"), REPLICA + BROKEN[check])
    before = dump(target)
    assert failed_checks(run(target, PRE_CHECKS)) == {check}
    done = psql(target, MIGRATION)
    assert done.returncode == 3
    assert "REFUSED: " in done.stderr
    with pytest.raises(CheckFailed):
        tenant_keys.engine(target, Silent()).run()
    assert dump(target) == before


def test_only_version_8_at_rest_becomes_version_9(database: DatabaseFactory) -> None:
    old = database("v7")
    for file in (MIGRATION, PRE_CHECKS, VERIFICATION):
        assert psql(old, file).returncode == 3
    with pytest.raises(CheckFailed, match="version 7; migration 009 follows 008"):
        tenant_keys.engine(old, Silent()).run()
    early = mandate("run", "009", "--yes", "--dsn", old.conninfo)
    assert early.returncode == 9
    assert "the database is at version 7; migration 009 follows migration 008" in early.stderr
    assert "mandate run 008" in early.stderr
    identity.engine(old, Silent()).run()
    with pytest.raises(CheckFailed, match="migration 008 is swapped"):
        tenant_keys.engine(old, Silent()).run()
    early = mandate("plan", "009", "--no-sample", "--dsn", old.conninfo)
    assert early.returncode == 9
    assert "migration 008 is not finalized" in " ".join(early.stderr.split())
    assert "mandate finalize 008" in early.stderr
    assert failed_checks(run(old, PRE_CHECKS)) == {"leftovers"}
    assert "\nverification: FAIL: " in run(old, VERIFICATION)


SUPERSEDE = """
INSERT INTO mandate.mandate_specs (spec_id, version, organization_id, domain, intent, stage, allowed_verdicts,
    signals, enforcement, status)
SELECT spec_id, 2, organization_id, domain, intent, stage, allowed_verdicts, signals, enforcement, 'active'
FROM mandate.mandate_specs WHERE spec_id = 'finance.refund';
"""
RETIRE = """
INSERT INTO mandate.spec_events (organization_id, domain, intent, stage, event, spec_id, version)
SELECT organization_id, domain, intent, stage, 'retired', spec_id, version
FROM mandate.mandate_specs WHERE spec_id = 'finance.refund' AND version = 2;
"""


def test_the_service_answers_before_in_and_after_the_reverse_window(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with decision_point(request, tmp_path, 8) as point:
        engine = tenant_keys.engine(point.target, Silent())
        bodies: list[dict[str, Any]] = []

        def decided(schema: int, spec_version: int) -> None:
            """A new decision is taken, and each one before is known."""
            bodies.append(decision())
            answer = post(point.service, bodies[-1])
            assert (answer.status, answer.json["decision"]["spec_version"]) == (201, spec_version)
            assert [post(point.service, body).status for body in bodies] == [200] * len(bodies)
            assert point.service.get("/readyz").json["schema_version"] == schema
            found = point.service.rows("/api/decisions?limit=500")
            assert {body["decision_id"] for body in bodies} <= {row["decision_id"] for row in found}

        decided(8, 1)
        engine.run()
        decided(9, 1)
        prepare(point.target, SUPERSEDE)
        decided(9, 2)
        specs = point.service.rows("/api/specs?domain=finance&intent=issue_refund")
        assert {row["version"]: row["status"] for row in specs} == {1: "deprecated", 2: "active"}
        engine.rollback()
        decided(8, 2)
        engine.run()
        engine.finalize()
        decided(9, 2)
        prepare(point.target, RETIRE)
        refusal = post(point.service, decision())
        assert (refusal.status, refusal.problem) == (422, "no-active-spec")


def test_rights_and_row_security_of_specs_are_those_of_their_events(database: DatabaseFactory) -> None:
    target = database("v8")
    prepare(
        target,
        "CREATE ROLE m009_clerk; GRANT SELECT, INSERT ON mandate.mandate_specs TO m009_clerk;"
        "CREATE POLICY own ON mandate.mandate_specs TO m009_clerk"
        " USING (organization_id::text = current_setting('clerk.of')) WITH CHECK (domain = 'pay');"
        "CREATE POLICY reads ON mandate.mandate_specs FOR SELECT TO m009_clerk USING (true);"
        "ALTER TABLE mandate.mandate_specs ENABLE ROW LEVEL SECURITY;",
    )
    rights = (
        "SELECT polname, pg_get_expr(polqual, polrelid) AS using,"
        " pg_get_expr(polwithcheck, polrelid) AS check, polcmd::text,"
        " polroles::regrole[]::text[] AS roles, relrowsecurity,"
        " has_table_privilege('m009_clerk', c.oid, 'INSERT') AS insert,"
        " has_table_privilege('m009_clerk', c.oid, 'DELETE') AS delete"
        " FROM pg_policy JOIN pg_class c ON c.oid = polrelid WHERE relname = {} ORDER BY 1"
    )
    try:
        run(target, MIGRATION)
        with connect(target) as session:
            of_specs = session.rows(rights.format("'mandate_specs'"))
            assert len(of_specs) == 2
            assert session.rows(rights.format("'spec_events'")) == of_specs
    finally:
        prepare(target, "DROP OWNED BY m009_clerk; DROP ROLE m009_clerk")


def test_the_command_line_runs_009_with_all_that_belongs_to_it(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v8")
    spec_file = str(MIGRATIONS / "009.toml")
    by_hand = clone(target, database)
    run(by_hand, MIGRATION)
    env = target.environment()
    done = mandate("rekey", "run", spec_file, "--deadline", "30", env=env)
    assert done.returncode == 0, done.stderr
    assert mandate("rekey", "finalize", spec_file, env=env).returncode == 0
    assert dump(target) == dump(by_hand)
    other = tmp_path / "other.toml"
    text = (MIGRATIONS / "009.toml").read_text("utf-8")
    other.write_text(text.replace('default = "now()"', 'default = "clock_timestamp()"'), "utf-8")
    refusal = mandate("rekey", "run", str(other), env=env)
    assert (refusal.returncode, "its file is another" in refusal.stderr) == (2, True)
