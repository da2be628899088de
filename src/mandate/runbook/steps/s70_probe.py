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
        evidence = probes.run(context.target, context.application_name, context.reporter)
        return outcome(evidence)


def outcome(evidence: dict[str, object]) -> Outcome:
    """The probes' evidence as an outcome; raises VerificationFailed."""
    results = [item for item in _list(evidence["probes"])]
    bad = [f"{item['name']} (got: {item['got']})" for item in results if item["status"] != "pass"]
    if evidence["rows_left"]:
        bad.append(f"{evidence['rows_left']} rows were left behind")
    if bad:
        raise VerificationFailed(
            f"{len(bad)} constraint tests failed: {'; '.join(bad)}",
            hint="the constraint does not do what version 8 asks of it: compare `\\d` with the reference schema",
            evidence=evidence,
        )
    consumed = tuple(f"a probe used up a sequence value: {item}" for item in _list(evidence["consumed"]))
    return Outcome(f"{len(results)} probes answered as they must, no row left", evidence, warnings=consumed)


def _list(value: object) -> list[dict[str, object]]:
    return list(value) if isinstance(value, list) else []


STEP = ProbeConstraints()
