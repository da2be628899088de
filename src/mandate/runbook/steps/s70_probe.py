"""Guide steps 7 and 8: the constraint tests, each undone."""

from __future__ import annotations

from dataclasses import dataclass

from mandate.errors import VerificationFailed
from mandate.runbook import probes
from mandate.runbook.step import Context, Outcome


@dataclass(frozen=True)
class ProbeConstraints:
    name: str = "probe"
    title: str = "Constraint tests"
    guide: str = "7, 8"
    exit_code: int = VerificationFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Run every probe. Raises VerificationFailed when one got another answer than it must."""
        evidence = probes.run(
            context.target, context.application_name, context.reporter, context.migration.probes
        )
        if bad := probes.problems(evidence):
            raise VerificationFailed(
                f"{len(bad)} constraint tests failed: {'; '.join(bad)}",
                hint=f"a constraint does not do what version {context.migration.version} asks: compare it"
                " with the reference schema",
                evidence=evidence,
            )
        used = tuple(f"a probe used up a sequence value: {item}" for item in probes.consumed(evidence))
        count = len(probes.results(evidence))
        return Outcome(f"{count} probes answered as they must, no row left", evidence, warnings=used)


STEP = ProbeConstraints()
