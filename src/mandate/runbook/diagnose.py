"""What is wrong, and what to do about it: failing checks with their repairs, and the guide's own queries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mandate.postgres.connection import Session, Target, connect
from mandate.progress import Reporter
from mandate.runbook import checks, guarded, journal, mapping, migrations, prechecks
from mandate.runbook.migration import Migration
from mandate.settings import Settings

_SQL = Path(__file__).parent / "sql"

NAMES_NOT_SLUGS = "domain_name_not_slug"
NO_FILE = (
    "no file repairs this: it is about the server, about objects of yours or about rows that are evidence;"
    " the rows say which"
)


@dataclass(frozen=True)
class Finding:
    """One failing check: what it means, the file that repairs it, the 008.toml that would do instead."""

    check: checks.Check
    explanation: str
    fix: str | None
    mapping: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """`version` of the schema, the findings, the guide's troubleshooting queries, the last run's error."""

    version: int
    findings: tuple[Finding, ...]
    guide: checks.Report
    last_error: Mapping[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "version": self.version,
            "findings": [asdict(finding) for finding in self.findings],
            "guide": self.guide.as_evidence(),
            "last_error": self.last_error,
        }


def run(target: Target, migration: Migration, settings: Settings, reporter: Reporter) -> Diagnosis:
    """Look; change nothing but what the pre-checks read: the mapping table that 008.toml feeds.

    Raises NotMandate, UnsupportedServer, and NeedsPerson for a version that the migration is not about.
    """
    with connect(target, application_name="mandate-diagnose") as session:
        migrations.require_supported(session)
        version = migrations.require_version(session)
        proposal = None
        guarded.require_version(version, migration)
        if version == migration.before:
            migration.before_checks(session, settings)
            prechecks.expect_engine(session)
            report = checks.run(session, migration.pre_checks, reporter, fixes=migration.fixes)
            proposal = _proposal(session, report)
        else:
            report = checks.run(session, migration.verification, reporter)
        guide = checks.run(session, _SQL / migration.troubleshooting[version], reporter)
        record = journal.load_record(session, migration=migration.name)
    failed = next((step.error for step in record.steps if step.error), None) if record else None
    findings = tuple(_finding(check, proposal) for check in report.failing())
    return Diagnosis(version, findings, guide, failed)


def _finding(check: checks.Check, proposal: str | None) -> Finding:
    if check.fix is None:
        return Finding(check, check.error or NO_FILE, None)
    by_mapping = check.id == NAMES_NOT_SLUGS
    return Finding(check, explanation(Path(check.fix)), check.fix, proposal if by_mapping else None)


def _proposal(session: Session, report: checks.Report) -> str | None:
    """Names that are not slugs are repaired by a reviewed mapping, since their table refuses UPDATE.

    All of them, not only the rows that are shown, and none becomes what another domain is called.
    """
    if not any(check.id == NAMES_NOT_SLUGS and check.rows for check in report.failing()):
        return None
    rows = session.rows("SELECT DISTINCT name::text AS name FROM pg_temp.bad_domain_name_not_slug")
    domains = session.rows("SELECT name::text AS name FROM mandate.domains WHERE name IS NOT NULL")
    bad = {str(row["name"]) for row in rows if row["name"] is not None}
    proposed = mapping.propose(bad, {str(row["name"]) for row in domains} - bad)
    lines = [f"{json.dumps(old, ensure_ascii=False)} = {json.dumps(new)}" for old, new in proposed.items()]
    return "\n".join(["[domains]", *lines])


def explanation(path: Path) -> str:
    """The comment at the head of a repair file, without its dashes."""
    lines = []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("--"):
            lines.append(line.lstrip("-").strip())
            if lines[-1].startswith("psql "):
                lines.pop()
        elif lines and not line.startswith("\\"):
            break
    return "\n".join(lines).strip()
