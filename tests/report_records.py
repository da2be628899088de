"""Run records as the journal would hold them: complete, failed in several ways, interrupted, hostile."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mandate.runbook.record import RunRecord, StepRecord

START = datetime(2026, 11, 22, 22, 0, 4, 120000, tzinfo=UTC)

# name, title, guide, critical, planned seconds, actual seconds
_STEPS = (
    ("stop", "Stop all services", "1", True, 4.0, 3.4),
    ("backup", "Back up, and prove the backup", "2", True, 71.0, 68.2),
    ("rehearse", "Rehearse on the restored backup", "3", False, 160.0, 171.9),
    ("check", "Pre-migration checks", "4", True, 6.1, 6.8),
    ("migrate", "Run the migration", "5", True, 39.5, 41.3),
    ("verify", "Post-migration verification", "6", True, 18.0, 16.9),
    ("probe", "Test the constraints", "7, 8", True, 0.4, 0.3),
    ("restart", "Restart the services", "9", True, 3.0, 2.1),
    ("smoke", "Smoke tests", "10", True, 1.5, 1.8),
    ("record", "Document completion", "11", True, 0.6, 0.7),
)

_ROWS = {
    "organizations": 3,
    "domains": 12,
    "scopes": 148,
    "policy_snapshots": 64,
    "mandate_specs": 41,
    "decision_events": 1_000_000,
    "verdict_events": 1_000_000,
    "audit_timeline_entries": 2_004_310,
}


def check(
    id: str,
    title: str,
    section: str,
    result: object = 0,
    expect: str = "zero",
    status: str = "pass",
    **more: Any,
) -> dict[str, Any]:
    return {
        "id": id,
        "title": title,
        "section": section,
        "expect": expect,
        "result": result,
        "status": status,
        "rows": [],
        "error": None,
        "fix": None,
        **more,
    }


def _pre_checks() -> list[dict[str, Any]]:
    one, two = "CHECK 1: Domain Data Availability", "CHECK 2: Orphaned Foreign Keys"
    three, four = "CHECK 3: Domain Names", "CHECK 4: Rows That Contradict Each Other"
    five, six = "CHECK 5: Keys Hidden in JSON", "CHECK 6: Objects That Mention domain_id"
    return [
        check("domain_row_count", "domains table row count", one, 12, "nonzero"),
        check("domain_id_null", "domain_id NULL count", one),
        check("domain_name_null", "name (future domain) NULL count", one),
        check("orphan_domain", "scopes.domain_id -> domains.domain_id orphans", two),
        check("orphan_organization", "organization_id -> organizations orphans", two),
        check("orphan_decision", "decision_id -> decision_events orphans", two),
        check("orphan_scope", "verdict_events.scope_id -> scopes.scope_id orphans", two),
        check("domain_name_not_slug", "domain names that are not slugs", three),
        check("domain_name_collision", "domain names that become equal", three),
        check("organization_mismatch", "rows whose organization is not their domain's", four),
        check("scope_domain_mismatch", "verdicts whose scope belongs to another domain", four),
        check("policy_scope_unknown", "policy keys that the map does not know", five),
        check("evidence_keys", "UUIDs in evidence JSON, kept as recorded", five, 2_611_402, "any"),
        check("dependent_objects", "views that mention a column that goes away", six),
        check("long_transactions", "transactions older than a minute", six),
    ]


def _verify_checks() -> list[dict[str, Any]]:
    tables = ("scopes", "policy_snapshots", "decision_events", "verdict_events", "audit_timeline_entries")
    types = [{"table_name": name, "data_type": "text"} for name in tables]
    return [
        check(
            "domain_id_columns",
            "Remaining domain_id columns in mandate schema",
            "VERIFICATION 1: domain_id Column Removal",
        ),
        check(
            "domain_columns", "table_name | data_type", "VERIFICATION 2: Domain Column Configuration",
            len(types), "rows", rows=types,
        ),
        check("domain_column_configuration", "domain columns that are not text",
              "VERIFICATION 2: Domain Column Configuration"),
        check("scope_id_data_type", "data_type", "VERIFICATION 3: scope_id Type Conversion", "text", "any"),
        check("scope_id_type", "scope_id columns that are not text",
              "VERIFICATION 3: scope_id Type Conversion"),
        check("scope_domain_prefix_match", "scopes_with_domain_prefix_match",
              "VERIFICATION 4: scope_id Domain Prefix Consistency", 148, "any"),
        check("scope_domain_prefix", "scopes_with_domain_prefix_mismatch",
              "VERIFICATION 4: scope_id Domain Prefix Consistency"),
        check("attribution_null", "scopes.domain NULL count", "VERIFICATION 5: NULL Attribution"),
        check("orphans", "scopes.domain -> domains.domain orphans", "VERIFICATION 7: Foreign Keys"),
        check("identity_map_rows", "old keys that resolve", "VERIFICATION 12: Identity Map", 160, "nonzero"),
    ]  # fmt: skip


def _digest(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()


def _probes() -> list[dict[str, Any]]:
    org = "00000000-0000-0000-0000-000000000001"
    domain = "INSERT INTO domains (organization_id, domain) VALUES ('{}', '{}')"
    scope = (
        "INSERT INTO scopes (scope_id, domain, organization_id, owning_team)"
        " VALUES ('{}', 'test-domain', '{}', 'Team')"
    )
    return [
        {
            "name": "domain accepted", "sql": domain.format(org, "test-domain"),
            "expected": "accepted", "got": "accepted: INSERT 0 1", "sqlstate": None,
            "constraint": None, "message": None, "status": "pass",
        },
        {
            "name": "domain in capitals refused", "sql": domain.format(org, "TEST-DOMAIN"),
            "expected": "refused by domains_domain_slug_format", "got": "refused", "sqlstate": "23514",
            "constraint": "domains_domain_slug_format",
            "message": 'new row for relation "domains" violates check constraint',
            "status": "pass",
        },
        {
            "name": "scope accepted", "sql": scope.format("test-domain.prod.service.agent", org),
            "expected": "accepted", "got": "accepted: INSERT 0 1", "sqlstate": None,
            "constraint": None, "message": None, "status": "pass",
        },
        {
            "name": "scope of another domain refused",
            "sql": scope.format("wrong-domain.prod.service.agent", org),
            "expected": "refused: GOVERNANCE VIOLATION", "got": "refused", "sqlstate": "P0001",
            "constraint": None,
            "message": "GOVERNANCE VIOLATION: scope_id 'wrong-domain.prod.service.agent' does not embed"
            " domain prefix 'test-domain'",
            "status": "pass",
        },
    ]  # fmt: skip


def _evidence() -> dict[str, dict[str, Any]]:
    archive = "mandate_backup_20261122_220008.sql"
    sha256 = _digest("backup")
    statements = [
        ("BEGIN", 0.001, "BEGIN"),
        ("LOCK TABLE mandate.organizations, mandate.domains IN ACCESS EXCLUSIVE MODE", 0.004, "LOCK TABLE"),
        ("UPDATE mandate.scopes SET domain = ...", 0.012, "UPDATE 148"),
        ("UPDATE mandate.policy_snapshots SET policies = ...", 0.031, "UPDATE 64"),
        (
            "ALTER TABLE mandate.decision_events ALTER domain_id TYPE text ...",
            11.92,
            "ALTER TABLE",
        ),
        (
            "ALTER TABLE mandate.verdict_events ALTER domain_id TYPE text ...",
            12.71,
            "ALTER TABLE",
        ),
        (
            "ALTER TABLE mandate.audit_timeline_entries ALTER domain_id TYPE text ...",
            15.2,
            "ALTER TABLE",
        ),
        ("CREATE FUNCTION mandate.validate_scopes_scope_id_domain_prefix() ...", 0.002, "CREATE FUNCTION"),
        (
            "CREATE INDEX idx_decision_events_organization_domain ON mandate.decision_events ...",
            0.61,
            "CREATE INDEX",
        ),
        ("INSERT INTO mandate.migration_log ...", 0.001, "INSERT 0 1"),
        ("COMMIT", 0.71, "COMMIT"),
    ]
    return {
        "stop": {
            "services": {"kind": "process", "stopped": ["mandate-serve"]},
            "writers": [],
        },
        "backup": {
            "file": archive,
            "bytes": 412_118_022,
            "sha256": sha256,
            "dump_seconds": 21.4,
            "verify_seconds": 8.9,
            "restore_seconds": 31.2,
            "scratch_database": "mandate_scratch_20261122t220004_7f3a",
            "tables": [
                {"table": f"mandate.{name}", "rows": rows, "fingerprint": _digest(name)[:32],
                 "restored_fingerprint": _digest(name)[:32]}
                for name, rows in _ROWS.items()
            ],
            "entries": 143,
        },
        "rehearse": {
            "database": "mandate_scratch_20261122t220004_7f3a",
            "steps": [
                {"name": "check", "seconds": 6.1},
                {"name": "migrate", "seconds": 39.5},
                {"name": "verify", "seconds": 18.0},
                {"name": "probe", "seconds": 0.4},
                {"name": "rollback", "seconds": 33.0},
            ],
            "locks": [
                {"table": "mandate.decision_events", "mode": "AccessExclusiveLock", "seconds": 38.9},
                {"table": "mandate.verdict_events", "mode": "AccessExclusiveLock", "seconds": 38.9},
                {"table": "mandate.scopes", "mode": "AccessExclusiveLock", "seconds": 39.1},
            ],
        },
        "check": {
            "checks": _pre_checks(), "passed": 15, "failed": 0, "errors": 0, "transcript": "check.out",
        },
        "migrate": {
            "method": "plain-sql",
            "seconds": 41.3,
            "transcript": "migrate.out",
            "statements": [{"sql": sql, "seconds": took, "tag": tag} for sql, took, tag in statements],
            "updated": {"mandate.scopes": 148, "mandate.policy_snapshots": 64, "mandate.mandate_specs": 41},
        },
        "verify": {
            "checks": _verify_checks(),
            "fingerprints": [
                {"table": f"mandate.{name}", "rows_before": rows, "rows_after": rows,
                 "before": _digest(name)[:32], "after": _digest(name)[:32], "equal": True}
                for name, rows in _ROWS.items()
            ],
        },
        "probe": {"probes": _probes(), "rows_left": 0, "consumed": []},
        "restart": {
            "services": {"kind": "process", "started": ["mandate-serve"]},
            "ready_url": "http://localhost:3000/readyz",
            "ready_seconds": 1.4,
        },
        "smoke": {
            "calls": [
                {"url": "http://localhost:3000/api/decisions", "status": 200, "ok": True,
                 "milliseconds": 9.8, "detail": "50 decisions"},
                {"url": "http://localhost:3000/api/verdicts", "status": 200, "ok": True,
                 "milliseconds": 11.2, "detail": "50 verdicts"},
                {"url": "http://localhost:3000/api/decisions?domain=finance", "status": 200, "ok": True,
                 "milliseconds": 8.1, "detail": "50 decisions, each of finance"},
            ],
            "domain": "finance",
            "rows_checked": 50,
            "logs": {"files": ["/var/log/mandate/serve.log"], "lines": 212, "findings": []},
        },
        "record": {
            "execution_log": "migration_008_execution_log.txt",
            "archive": f"backups/{archive}",
            "link": "latest_mandate_backup.sql",
            "migration_log": {"id": 8, "executed_at": (START + timedelta(seconds=290)).isoformat()},
        },
    }  # fmt: skip


_SUMMARIES = {
    "stop": "mandate-serve stopped; no other writer is connected",
    "backup": "393.0 MiB, restored and compared: 8 tables equal; a restore takes 31 s",
    "rehearse": "migrated, rolled back and migrated again on the restored backup",
    "check": "15 checks passed",
    "migrate": "committed; 253 rows updated, 3 tables rewritten",
    "verify": "10 verifications passed; 8 tables have equal fingerprints",
    "probe": "4 probes as expected; no row left behind",
    "restart": "mandate-serve is ready",
    "smoke": "3 calls answered; 50 rows of finance compared; no error in the logs",
    "record": "backup archived and linked; execution log written",
}


def complete() -> RunRecord:
    """A run that went well."""
    evidence, at, steps = _evidence(), START + timedelta(seconds=0.8), []
    for name, title, guide, critical, planned, actual in _STEPS:
        finished = at + timedelta(seconds=actual)
        steps.append(
            StepRecord(
                name,
                title,
                guide,
                critical,
                "passed",
                planned,
                at,
                finished,
                _SUMMARIES[name],
                evidence[name],
                (),
                None,
                1,
            )
        )
        at = finished + timedelta(seconds=0.05)
    return RunRecord(
        run_id="20261122T220004-7f3a",
        migration="008",
        title="RFC-002 v1.2 Domain Identity Migration",
        mode="offline",
        database="mandate",
        server_version="18.4",
        mandate_version="0.1.0",
        host="db-1.example.net:5432",
        operator="postgres on ops-1",
        started_at=START,
        finished_at=at,
        status="complete",
        exit_code=0,
        directory="runs/20261122T220004-7f3a",
        steps=tuple(steps),
    )


def change(record: RunRecord, name: str, **changes: Any) -> RunRecord:
    """The record with fields of one step replaced."""
    steps = tuple(replace(step, **changes) if step.name == name else step for step in record.steps)
    return replace(record, steps=steps)


def with_evidence(record: RunRecord, name: str, **evidence: Any) -> RunRecord:
    """The record with keys of one step's evidence replaced."""
    step = record.step(name)
    assert step is not None
    return change(record, name, evidence={**step.evidence, **evidence})


def cut(record: RunRecord, after: str) -> RunRecord:
    """The record with every step after `after` still pending."""
    names = [step.name for step in record.steps]
    later = names[names.index(after) + 1 :]
    for name in later:
        record = change(
            record,
            name,
            status="pending",
            started_at=None,
            finished_at=None,
            summary="",
            evidence={},
            attempts=0,
        )
    return record


def _end(record: RunRecord, name: str) -> datetime | None:
    step = record.step(name)
    return step.finished_at if step else None


def failed_check(offending: int = 3) -> RunRecord:
    """The pre-checks named bad data: nothing was changed."""
    record = cut(complete(), "check")
    rows = [
        {"row": f"mandate.decision_events {n:08x}-0000-4000-8000-000000000000", "domain_id": None,
         "domain": "<script>alert(1)</script>", "intent": "pay invoice \u202e evil"}
        for n in range(offending)
    ]  # fmt: skip
    checks = _pre_checks()
    checks[1] = check(
        "domain_id_null", "domain_id NULL count", "CHECK 1: Domain Data Availability", offending,
        status="fail", rows=rows, fix="psql -f migrations/fixes/008_domain_id_null.sql",
    )  # fmt: skip
    checks[13] = check(
        "dependent_objects", "views that mention a column that goes away",
        "CHECK 6: Objects That Mention domain_id", None, status="error",
        error="permission denied for schema reporting",
    )  # fmt: skip
    record = change(
        record, "check", status="failed", summary="1 check failed, 1 could not be made",
        evidence={"checks": checks, "passed": 13, "failed": 1, "errors": 1, "transcript": "check.out"},
        error={
            "code": "pre-check-failed", "message": "1 pre-check failed and 1 could not be made",
            "hint": "`mandate diagnose 008` shows the rows and a fix for each", "exit_code": 3, "fields": {},
        },
    )  # fmt: skip
    return replace(record, status="failed", exit_code=3, finished_at=_end(record, "check"))


def failed_verification() -> RunRecord:
    """The migration committed; a verification and a fingerprint disagree."""
    record = cut(complete(), "verify")
    checks = _verify_checks()
    checks[6] = check(
        "scope_domain_prefix", "scopes_with_domain_prefix_mismatch",
        "VERIFICATION 4: scope_id Domain Prefix Consistency", 2, status="fail",
        rows=[{"scope_id": "finance", "domain": "logistics"}, {"scope_id": "<img src=x>", "domain": "legal"}],
    )  # fmt: skip
    step = record.step("verify")
    assert step is not None
    prints = [dict(item) for item in step.evidence["fingerprints"]]
    prints[5].update(rows_after=999_999, after="f" * 32, equal=False)
    record = change(
        record, "verify", status="failed", summary="1 of 10 verifications failed; 1 table differs",
        evidence={"checks": checks, "fingerprints": prints},
        error={
            "code": "verification-failed",
            "message": "verification failed: scope_domain_prefix is 2; mandate.decision_events differs",
            "hint": "services stay stopped; `mandate rollback 008 --from-backup` brings version 7 back",
            "exit_code": 6, "fields": {},
        },
    )  # fmt: skip
    return replace(record, status="failed", exit_code=6, finished_at=_end(record, "verify"))


def interrupted() -> RunRecord:
    """The conductor died in the migrating step."""
    record = cut(complete(), "migrate")
    record = change(record, "migrate", status="interrupted", finished_at=None, summary="", evidence={})
    return replace(record, status="interrupted", exit_code=None, finished_at=None)


def running() -> RunRecord:
    """The migrating step is under way."""
    record = cut(complete(), "migrate")
    record = change(record, "migrate", status="running", finished_at=None, summary="", evidence={})
    return replace(record, status="running", exit_code=None, finished_at=None)


def rolled_back() -> RunRecord:
    """Verification failed and the backup was brought back."""
    record = failed_verification()
    assert record.finished_at is not None
    begun = record.finished_at + timedelta(seconds=95)
    rollback = StepRecord(
        "rollback", "Roll back from the backup", "rollback", True, "passed", 33.0, begun,
        begun + timedelta(seconds=36.4), "version 7 is back; 17 rows written since were exported",
        {
            "database_before": "mandate",
            "database_kept": "mandate_before_rollback_20261122t220004_7f3a",
            "written_since": {"mandate.decision_events": 8, "mandate.verdict_events": 9},
            "export": "written_since",
            "seconds": 36.4,
            "notified": ["mailto://ops.example.net"],
        },
        (), None, 1,
    )  # fmt: skip
    return replace(
        record, steps=(*record.steps, rollback), status="rolled-back", exit_code=8,
        finished_at=rollback.finished_at,
    )  # fmt: skip


ALL = {
    "complete": complete,
    "failed_check": failed_check,
    "failed_verification": failed_verification,
    "interrupted": interrupted,
    "running": running,
    "rolled_back": rolled_back,
}
