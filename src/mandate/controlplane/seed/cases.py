"""Cases: decisions with their context, scope, verdict and timeline, evaluated once and recorded many times.

A case is everything about a decision but its identifiers, its times and its target's number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from mandate.controlplane.evaluator import Evaluation, Evaluator
from mandate.controlplane.model import Decision, Scope, Spec, Stage, Verdict, parse_policies
from mandate.controlplane.seed.catalogue import PEOPLE, Kind
from mandate.controlplane.seed.dialect import Dialect
from mandate.controlplane.seed.policies import PRODUCTION, STAGING
from mandate.controlplane.seed.world import Domain, Snapshot, all_scopes

# One in five is proposed, three in five are about to happen, one in five has happened.
_STAGES = (
    Stage.PRE_COMMIT, Stage.PROPOSED, Stage.PRE_COMMIT, Stage.EXECUTED, Stage.PRE_COMMIT,
    Stage.PRE_COMMIT, Stage.PROPOSED, Stage.PRE_COMMIT, Stage.EXECUTED, Stage.PRE_COMMIT,
)  # fmt: skip
_SEVERITY = {Verdict.BLOCK: "critical", Verdict.PAUSE: "warning"}
_TOTAL_CASES = 24_000
_MOST_CASES = 512
_FEWEST_CASES = len(_STAGES) * 3


@dataclass(frozen=True, slots=True)
class Case:
    """The constant ends of a case's COPY lines, and its target without the number.

    `outcome` is None where nobody reported one; `outcome_minutes` is how long that took.
    """

    target: str
    decision: str
    verdict: str
    recorded: str
    issued: str
    outcome: str | None
    outcome_minutes: int


def per_pool(decisions: int, pools: int) -> int:
    """How many cases a domain has under one snapshot: bounded in all, so that memory is."""
    return max(_FEWEST_CASES, min(_MOST_CASES, min(decisions, _TOTAL_CASES) // pools))


def pool(dialect: Dialect, domain: Domain, snapshot: Snapshot, count: int) -> list[Case]:
    """The cases of a domain while `snapshot` was in force. Equal arguments give equal cases."""
    random = Random(f"{dialect.world.parameters.key} cases {domain.rank} {snapshot.version}")
    maker = _Maker(dialect, domain, snapshot, random)
    kinds = domain.family.kinds
    return [
        maker.case(kinds[index // len(_STAGES) % len(kinds)], _STAGES[index % len(_STAGES)])
        for index in range(count)
    ]


def evaluators(domain: Domain, snapshot: Snapshot) -> dict[tuple[str, Stage], Evaluator]:
    """What decides in a domain while `snapshot` is in force, by intent and stage."""
    rules = parse_policies(list(snapshot.policies))
    scopes = tuple(all_scopes(domain))
    found: dict[tuple[str, Stage], Evaluator] = {}
    for seed in domain.specs:
        if seed.status == "draft" or (seed.status == "active" and seed.created_at > snapshot.created_at):
            continue
        spec = seed.spec
        known = found.get((spec.intent, spec.stage))
        if known is None or known.spec.version < spec.version:
            found[spec.intent, spec.stage] = Evaluator(spec, rules, scopes)
    return found


class _Maker:
    def __init__(self, dialect: Dialect, domain: Domain, snapshot: Snapshot, random: Random) -> None:
        self._dialect = dialect
        self._domain = domain
        self._snapshot = snapshot
        self._random = random
        self._evaluators = evaluators(domain, snapshot)

    def case(self, kind: Kind, stage: Stage) -> Case:
        evaluator = self._evaluators[kind.intent, stage]
        context, scope = self._context(kind), self._scope(kind)
        decision = Decision(
            self._domain.organization.organization_id, self._domain.name, kind.intent, stage, context, scope
        )
        return self._render(kind, evaluator.spec, decision, evaluator.evaluate(decision))

    def _context(self, kind: Kind) -> dict[str, Any]:
        """Declared signals, and now and then what nobody declared. A few callers forget something."""
        random = self._random
        delicate = int(random.random() ** 1.6 * len(kind.choices))
        context: dict[str, Any] = {
            kind.number: kind.amounts[int(random.random() ** 1.4 * len(kind.amounts))],
            kind.check: random.random() < kind.healthy,
            kind.choice: kind.choices[delicate],
        }
        if random.random() < 0.08:
            del context[kind.choice]
        if random.random() < 0.01:
            del context[kind.check]
        if random.random() < 0.3:
            context["channel"] = ("api", "batch", "desk")[int(random.random() * 3)]
        if random.random() < 0.05:
            context["domain_id"] = self._domain.domain_id
        return context

    def _scope(self, kind: Kind) -> dict[str, str]:
        random = self._random
        tenant = self._domain.organization.name
        own = {"environment": PRODUCTION, "service": kind.service, "agent": kind.agent, "tenant": tenant}
        chance = random.random()
        if chance < 0.65:
            agents = [scope.agent for scope in self._domain.scopes if scope.service == kind.service]
            return own | {"agent": agents[int(random.random() * len(agents))] or kind.agent}
        if chance < 0.8:
            return own | {"environment": STAGING}
        if chance < 0.93:
            return own | {"agent": "integration-agent", "system": self._domain.family.system}
        return {"tenant": tenant}

    def _actor(self, kind: Kind) -> tuple[str, str]:
        """Name and what it is: agent, human or system."""
        chance = self._random.random()
        if chance < 0.86:
            return f"agent:{kind.agent}", "agent"
        if chance < 0.95:
            return f"human:{PEOPLE[int(self._random.random() * len(PEOPLE))]}", "human"
        return "system:scheduler", "system"

    def _render(self, kind: Kind, spec: Spec, decision: Decision, found: Evaluation) -> Case:
        actor, actor_kind = self._actor(kind)
        domain = self._dialect.domain(self._domain)
        owner = self._domain.organization.organization_id
        end = (owner, domain, spec.spec_id, spec.version)
        what = (spec.intent, spec.stage, actor)
        outcome, minutes = self._outcome(spec, found, actor_kind)
        recorded = (f"Decision recorded: {spec.intent}, {spec.stage}", {"type": "DECISION_RECORDED"}, "info")
        return Case(
            kind.target,
            line(*what, _json(decision.context), _json(decision.scope), *end),
            line(*self._verdict(found, end)),
            line(*what, *_entry(recorded, actor_kind, actor_kind), *end),
            line(*what, *_entry(self._issued(found), "system", "system"), *end),
            None if outcome is None else line(spec.intent, Stage.EXECUTED, actor, *outcome, *end),
            minutes,
        )

    def _verdict(self, found: Evaluation, end: Sequence[object]) -> tuple[object, ...]:
        scope: Scope | None = found.scope
        columns = (
            self._snapshot.snapshot_id,
            found.verdict,
            _array(found.matched_policy_ids),
            *end,
            None if scope is None else self._dialect.scope(scope.scope_id),
            None if scope is None else scope.owning_team,
        )
        return (*columns, self._domain.name) if self._dialect.version == 7 else columns

    def _issued(self, found: Evaluation) -> tuple[str, Mapping[str, Any], str]:
        details: dict[str, Any] = {
            "type": "VERDICT_ISSUED",
            "verdict": found.verdict,
            "snapshot_version": self._snapshot.version,
            # Evidence: the key that the scope had under version 7 stays as it was recorded.
            "scope_id": None if found.scope is None else found.scope.scope_id,
        }
        if found.failed_closed:
            details["reasons"] = found.reasons
        why = ", ".join(found.matched_policy_ids) or "no policy matched"
        return f"Verdict {found.verdict}: {why}", details, _SEVERITY.get(found.verdict, "info")

    def _outcome(
        self, spec: Spec, found: Evaluation, actor_kind: str
    ) -> tuple[tuple[object, ...] | None, int]:
        """The OUTCOME entry's own columns: people answer pauses, agents report what they have done."""
        chance, detail = self._random.random(), self._random.random()
        minutes = 1 + int(detail * 150)
        if found.verdict is Verdict.PAUSE and chance < 0.5:
            result, by, severity = ("approved" if detail < 0.7 else "rejected"), "human", "info"
        elif spec.stage is Stage.EXECUTED and found.verdict is not Verdict.BLOCK and chance < 0.3:
            result, severity = ("failed", "warning") if detail < 0.05 else ("done", "info")
            by = actor_kind
        else:
            return None, 0
        entry = (f"Outcome: {result}", {"type": "OUTCOME", "outcome": result}, severity)
        return _entry(entry, by, by), minutes


def _entry(
    entry: tuple[str, Mapping[str, Any], str], source: str, authority: str
) -> tuple[object, object, object, object, object]:
    summary, details, severity = entry
    return summary, _json(details), severity, source, authority


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _array(items: Sequence[str]) -> str:
    """A text[] literal."""
    quoted = ('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
    return "{" + ",".join(quoted) + "}"


def line(*columns: object) -> str:
    """Columns as the end of a line in COPY's text format, newline included; None is NULL."""
    return "\t".join(map(_field, columns)) + "\n"


def _field(value: object) -> str:
    if value is None:
        return "\\N"
    text = str(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
