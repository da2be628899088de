"""Before anything is stopped: would the pre-checks pass?"""

from __future__ import annotations

from dataclasses import dataclass

from mandate.errors import CheckFailed
from mandate.runbook import prechecks
from mandate.runbook.step import Context, Outcome


@dataclass(frozen=True)
class Preflight:
    name: str = "preflight"
    title: str = "Pre-checks while the services still run"
    guide: str = "3"
    exit_code: int = CheckFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """The checks of step 4, so that bad data costs no downtime. Raises CheckFailed."""
        evidence = prechecks.run(context, "preflight.txt")
        return Outcome(f"{evidence['passed']} of {len(evidence['checks'])} checks passed", evidence)


STEP = Preflight()
