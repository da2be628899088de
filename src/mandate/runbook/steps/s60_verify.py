"""Guide step 6: the verifications, and the fingerprints of every table before and after."""

from __future__ import annotations

from dataclasses import dataclass

from mandate.errors import VerificationFailed
from mandate.runbook import checks, files, proof
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
            report = checks.run(session, files.verification(), context.reporter)
            checks.clean_up(session)
        transcript = context.directory / "verify.txt"
        transcript.write_text(report.transcript, "utf-8")
        earlier = context.results.get("check", {}).get("before")
        tables = proof.compare(earlier, proof.after(context.target, context.reporter)) if earlier else []
        evidence = {**report.as_evidence(), "transcript": transcript.name, "fingerprints": tables}
        _require(report, tables, evidence)
        rows = sum(table["rows_after"] for table in tables)
        return Outcome(
            f"{report.count('pass')} of {len(report.checks)} verifications passed, "
            + (f"{rows:,} rows in {len(tables)} tables equal" if tables else "no fingerprints from before"),
            evidence,
            warnings=()
            if tables
            else ("the pre-checks of this run left no fingerprints: rows were not compared",),
        )


def _require(report: checks.Report, tables: list[dict[str, object]], evidence: dict[str, object]) -> None:
    problems = [check.id for check in report.failing()]
    problems += [f"rows of {table['table']} differ" for table in tables if not table["equal"]]
    if problems:
        raise VerificationFailed(
            f"verification failed: {', '.join(problems)}",
            hint="`mandate rollback 008 --from-backup` goes back to version 7; services are still stopped",
            evidence=evidence,
        )


STEP = Verify()
