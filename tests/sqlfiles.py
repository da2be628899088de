"""The SQL files of migration 008 as a DBA runs them, and a small version 7 record to run them on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mandate.postgres import programs
from mandate.postgres.connection import Target

MIGRATIONS = Path(__file__).parent.parent / "migrations"
PRE_CHECKS = MIGRATIONS / "008_PRE_MIGRATION_CHECKS.sql"
MIGRATION = MIGRATIONS / "008_rfc002_domain_identity_migration.sql"
VERIFICATION = MIGRATIONS / "008_POST_MIGRATION_VERIFICATION.sql"
REFERENCE = MIGRATIONS / "reference" / "version_8_schema.sql"

EXAMPLE = "00000000-0000-0000-0000-000000000001"
OTHER = "00000000-0000-0000-0000-000000000002"

# Two organizations that both have a `finance`; three scopes that arrive at one readable id; keys in JSON, some in
# capitals; evidence with keys of its own. Needs migration 003.
RECORD = """
SET search_path = mandate, public;
INSERT INTO organizations (organization_id, name) VALUES
    ('00000000-0000-0000-0000-000000000002', 'Other');
INSERT INTO domains (domain_id, organization_id, name) VALUES
    ('d0000006-0000-4000-8000-000000000006', '00000000-0000-0000-0000-000000000002', 'finance'),
    ('d0000007-0000-4000-8000-000000000007', '00000000-0000-0000-0000-000000000002', 'r_d');
INSERT INTO scopes (scope_id, organization_id, domain_id, scope_domain, environment, service, agent) VALUES
    ('5c100001-0000-4000-8000-000000000001', '00000000-0000-0000-0000-000000000002',
     'd0000006-0000-4000-8000-000000000006', NULL, 'prod', 'Pay Roll', 'bot'),
    ('5c100002-0000-4000-8000-000000000002', '00000000-0000-0000-0000-000000000002',
     'd0000006-0000-4000-8000-000000000006', NULL, 'prod', 'pay.roll', 'bot'),
    ('5c100003-0000-4000-8000-000000000003', '00000000-0000-0000-0000-000000000002',
     'd0000006-0000-4000-8000-000000000006', NULL, 'PROD', 'pay-roll', 'bot'),
    ('5c100004-0000-4000-8000-000000000004', '00000000-0000-0000-0000-000000000002',
     'd0000007-0000-4000-8000-000000000007', '', '', '', '');
INSERT INTO policy_snapshots (snapshot_id, version, organization_id, domain_id, policies) VALUES
    ('a1000001-0000-4000-8000-000000000001', 1, '00000000-0000-0000-0000-000000000002',
     'd0000006-0000-4000-8000-000000000006',
     '[{"id": "a", "scope_id": "5C100001-0000-4000-8000-000000000001", "verdict": "BLOCK",
        "domain_id": "d0000006-0000-4000-8000-000000000006", "conditions": []},
       {"id": "b", "scope_id": null, "domain": "finance", "verdict": "ALLOW"}, "a remark"]'),
    ('a1000002-0000-4000-8000-000000000002', 1, '00000000-0000-0000-0000-000000000002',
     'd0000007-0000-4000-8000-000000000007', '[]');
CREATE TEMP VIEW places AS
SELECT row_number() OVER (ORDER BY s.scope_id) - 1 AS n, count(*) OVER () AS total, s.scope_id, s.organization_id,
       s.domain_id, d.name
FROM scopes s JOIN domains d USING (domain_id);
INSERT INTO decision_events (decision_id, intent, stage, actor, target, context, scope, timestamp, organization_id, domain_id)
SELECT md5('decision' || g)::uuid, 'intent-' || g % 3, 'pre_commit', 'agent-' || g % 4, 'target-' || g,
       jsonb_build_object('amount', g, 'domain_id', p.domain_id, 'note', repeat('evidence ', g)),
       jsonb_build_object('scope_id', upper(p.scope_id::text)), timestamptz '2025-01-01 00:00Z' + g * interval '1 hour',
       p.organization_id, p.domain_id
FROM generate_series(1, 40) g JOIN places p ON p.n = g % p.total;
INSERT INTO verdict_events (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids, timestamp,
                            organization_id, domain_id, scope_id, domain, owning_team)
SELECT md5('verdict' || g)::uuid, md5('decision' || g)::uuid, 'a1000001-0000-4000-8000-000000000001', 'ALLOW', '{a,b}',
       timestamptz '2025-01-01 00:00Z' + g * interval '1 hour', p.organization_id, p.domain_id,
       CASE WHEN g % 5 > 0 THEN p.scope_id END, CASE WHEN g % 2 = 0 THEN p.name END, 'Team'
FROM generate_series(1, 40) g JOIN places p ON p.n = g % p.total;
INSERT INTO audit_timeline_entries (entry_id, decision_id, intent, stage, actor, target, summary, details, severity,
                                    event_source, authority_level, timestamp, organization_id, domain_id)
SELECT md5('entry' || g || k)::uuid, md5('decision' || g)::uuid, 'intent-' || g % 3, 'pre_commit', 'agent-' || g % 4,
       'target-' || g, 'summary', jsonb_build_object('scope_id', p.scope_id, 'k', k), 'info', 'agent', 'agent',
       timestamptz '2025-01-01 00:00Z' + g * interval '1 hour', p.organization_id, p.domain_id
FROM generate_series(1, 40) g JOIN places p ON p.n = g % p.total CROSS JOIN generate_series(1, 2) k;
DROP VIEW places;
"""


def psql(
    target: Target, script: str | Path, *, environment: Mapping[str, str] | None = None, rc: bool = False
) -> subprocess.CompletedProcess[str]:
    """Feed a script to psql's standard input, as `psql mandate < FILE` does; `rc` reads the psqlrc too."""
    text = script.read_text("utf-8") if isinstance(script, Path) else script
    return subprocess.run(
        [str(programs.find("psql", 18)), *([] if rc else ["--no-psqlrc"])],
        input=text,
        env=programs.environment(target, environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def prepare(target: Target, *scripts: str) -> None:
    """Run SQL that has to succeed."""
    for script in scripts:
        done = psql(target, f"\\set ON_ERROR_STOP on\n\\set QUIET on\n{script}")
        assert done.returncode == 0, done.stderr


def dump(target: Target) -> str:
    """The schema as pg_dump 18 writes it, without what differs between two dumps or servers of equal databases."""
    text = programs.run([programs.find("pg_dump", 18), "--schema-only", "--schema=mandate"], target)
    kept = (line for line in text.splitlines() if not re.match(r"--|SET |SELECT pg_catalog|\\(un)?restrict", line))
    return re.sub(r"\n{2,}", "\n\n", "\n".join(kept)).strip() + "\n"


def results(output: str) -> dict[str, str]:
    """`name: value` lines of a run of checks."""
    return dict(line.rsplit(": ", 1) for line in output.splitlines() if ": " in line)


def failed_checks(output: str) -> set[str]:
    """The ids that the summary of the pre-checks names; empty when it says READY."""
    found = re.search(r"^readiness: (?:READY|NOT READY, failed: (.*))$", output, re.MULTILINE)
    assert found, output
    return set(found[1].split(", ")) if found[1] else set()
