"""Guide step 4: the pre-migration checks, and the fingerprints that verification will compare with."""

from __future__ import annotations

from dataclasses import dataclass

from mandate.errors import CheckFailed
from mandate.runbook import prechecks, proof
from mandate.runbook.step import Context, Outcome


@dataclass(frozen=True)
class Precheck:
    name: str = "check"
    title: str = "Pre-migration checks"
    guide: str = "4"
    exit_code: int = CheckFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Run the guide's file, then fingerprint every table. Raises CheckFailed.

        Not while services write: then the engine compares old and new in one snapshot before its swap.
        """
        evidence = prechecks.run(context, "check.txt")
        if not context.services_up:
            evidence["before"] = proof.before(context.migration.proof, context.target, context.reporter)
        return Outcome(f"{evidence['passed']} of {len(evidence['checks'])} checks passed", evidence)


STEP = Precheck()
