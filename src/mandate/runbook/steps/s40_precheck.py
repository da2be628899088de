"""Guide step 4: the pre-migration checks, and the fingerprints that verification will compare with."""

from __future__ import annotations

from dataclasses import dataclass

from mandate.errors import CheckFailed
from mandate.runbook import checks, files, mapping, proof
from mandate.runbook.step import Context, Outcome


@dataclass(frozen=True)
class Precheck:
    name: str = "check"
    title: str = "Pre-migration checks"
    guide: str = "4"
    exit_code: int = CheckFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Run the guide's file; raises CheckFailed naming every check that did not pass."""
        with context.session() as session:
            mapping.store(session, mapping.find(context.settings))
            report = checks.run(session, files.pre_checks(), context.reporter, fixes=files.fixes())
        transcript = context.directory / "check.txt"
        transcript.write_text(report.transcript, "utf-8")
        evidence = {**report.as_evidence(), "transcript": transcript.name}
        if not report.passed:
            raise failed(report, evidence)
        evidence["before"] = proof.before(context.target, context.reporter)
        return Outcome(f"{report.count('pass')} of {len(report.checks)} checks passed", evidence)


def failed(report: checks.Report, evidence: dict[str, object]) -> CheckFailed:
    """The error that names what failed."""
    names = ", ".join(check.id for check in report.failing())
    return CheckFailed(
        f"{len(report.failing())} of {len(report.checks)} pre-checks did not pass: {names};"
        " nothing was changed",
        hint="`mandate diagnose 008` shows the rows and how to repair them",
        evidence=evidence,
    )


STEP = Precheck()
