"""The SQL files of migration 008 as a DBA runs them, and a small version 7 record to run them on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from psycopg import sql

from mandate.postgres import programs
from mandate.postgres.connection import Session, Target

MIGRATIONS = Path(__file__).parent.parent / "migrations"
PRE_CHECKS = MIGRATIONS / "008_PRE_MIGRATION_CHECKS.sql"
MIGRATION = MIGRATIONS / "008_rfc002_domain_identity_migration.sql"
VERIFICATION = MIGRATIONS / "008_POST_MIGRATION_VERIFICATION.sql"
REFERENCE = MIGRATIONS / "reference" / "version_8_schema.sql"

EXAMPLE = "00000000-0000-0000-0000-000000000001"
# Triggers and foreign keys look away: how broken data gets in.
REPLICA = "SET session_replication_role = replica; SET search_path = mandate;"

# A small record with every awkward thing that is still right; needs migration 003.
RECORD = (Path(__file__).parent / "sql" / "record_v7.sql").read_text("utf-8")


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
    """The schema as pg_dump 18 writes it, without what differs between dumps of equal databases."""
    text = programs.run([programs.find("pg_dump", 18), "--schema-only", "--schema=mandate"], target)
    noise = re.compile(r"--|SET |SELECT pg_catalog|\\(un)?restrict")
    kept = (line for line in text.splitlines() if not noise.match(line))
    return re.sub(r"\n{2,}", "\n\n", "\n".join(kept)).strip() + "\n"


def results(output: str) -> dict[str, str]:
    """`name: value` lines of a run of checks."""
    return dict(line.rsplit(": ", 1) for line in output.splitlines() if ": " in line)


def failed_checks(output: str) -> set[str]:
    """The ids that the summary of the pre-checks names; empty when it says READY."""
    found = re.search(r"^readiness: (?:READY|NOT READY, failed: (.*))$", output, re.MULTILINE)
    assert found, output
    return set(found[1].split(", ")) if found[1] else set()


def migrate(target: Target) -> str:
    """Run migration 008 without a complaint; what it printed."""
    done = psql(target, MIGRATION)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def verify(target: Target) -> None:
    """Every verification passes."""
    done = psql(target, VERIFICATION)
    assert done.returncode == 0, done.stderr
    assert "\nverification: PASS\n" in done.stdout, done.stdout


def check(target: Target, environment: Mapping[str, str] | None = None) -> tuple[set[str], str]:
    """Run the pre-checks: the ids of the failed ones, and the output."""
    done = psql(target, PRE_CHECKS, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return failed_checks(done.stdout), done.stdout


OLD_ROWS = {
    "decision_events": "decision_id::text AS key",
    "verdict_events": "verdict_id::text AS key, scope_id::text AS scope",
    "audit_timeline_entries": "entry_id::text AS key",
    "policy_snapshots": "snapshot_id::text AS key",
}


def attribution(session: Session, table: str, domain: str) -> dict[str, tuple[str, str | None]]:
    """Each row's domain (by its column `domain`) and scope, by primary key."""
    query = sql.SQL("SELECT {columns}, {domain}::text AS domain FROM mandate.{table}").format(
        columns=sql.SQL(OLD_ROWS[table]), domain=sql.Identifier(domain), table=sql.Identifier(table)
    )
    return {row["key"]: (row["domain"], row.get("scope")) for row in session.rows(query)}
