"""Guide step 6: the verifications, and the fingerprints of every table before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mandate.errors import VerificationFailed
from mandate.runbook import checks, modes, proof
from mandate.runbook.step import Context, Outcome


@dataclass(frozen=True)
class Verify:
    name: str = "verify"
    title: str = "Post-migration verification"
    guide: str = "6"
    exit_code: int = VerificationFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Run the guide's file and compare fingerprints. Raises VerificationFailed."""
        with context.session() as session:
            report = checks.run(session, context.migration.verification, context.reporter)
            checks.clean_up(session)
        transcript = context.directory / "verify.txt"
        transcript.write_text(report.transcript, "utf-8")
        tables = _compared(context)
        evidence = {**report.as_evidence(), "transcript": transcript.name, "fingerprints": tables}
        _require(report, tables, evidence, context)
        rows = sum(table["rows_after"] for table in tables)
        return Outcome(
            f"{report.count('pass')} of {len(report.checks)} verifications passed, "
            + (f"{rows:,} rows in {len(tables)} tables equal" if tables else "no fingerprints from before"),
            evidence,
            warnings=()
            if tables
            else ("the pre-checks of this run left no fingerprints: rows were not compared",),
        )


def _compared(context: Context) -> list[dict[str, Any]]:
    """Fingerprints before and after; where writers kept writing, those that the engine took together."""
    earlier = context.results.get("check", {}).get("before")
    if earlier:
        return proof.compare(earlier, proof.after(context.migration.proof, context.target, context.reporter))
    return list(context.results.get("migrate", {}).get("fingerprints", []))


def _require(
    report: checks.Report, tables: list[dict[str, Any]], evidence: dict[str, object], context: Context
) -> None:
    problems = [check.id for check in report.failing()]
    problems += [f"rows of {table['table']} differ" for table in tables if not table["equal"]]
    if problems:
        raise VerificationFailed(
            f"verification failed: {', '.join(problems)}",
            hint=_way_back(context),
            evidence=evidence,
        )


def _way_back(context: Context) -> str:
    away = "" if context.services_up else "; services are still stopped"
    name, before = context.migration.name, context.migration.before
    if modes.by_engine(context.options.mode):
        return f"`mandate rollback {name}` goes back to version {before}, with everything written since{away}"
    return f"`mandate rollback {name} --from-backup` goes back to version {before}{away}"


STEP = Verify()
