"""Whether recorded decisions still get the verdict that is recorded. Rows in, counts and explanations out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from mandate.controlplane.catalogue import Judge as Authority
from mandate.controlplane.evaluator import Bound, Evaluation, Evaluator, Outcome, PolicyTrace, unattributed
from mandate.controlplane.model import (
    Decision,
    InvalidModel,
    Spec,
    Stage,
    Verdict,
    most_severe,
    parse_verdict,
)
from mandate.controlplane.numbers import exact
from mandate.controlplane.populate import Populator
from mandate.controlplane.replay.candidate import Candidate
from mandate.controlplane.replay.holdings import Absent, Library
from mandate.controlplane.replay.totals import Finding, Totals
from mandate.postgres.copying import unescaped

_REMEMBERED_CASES = 20_000
_REMEMBERED_SCOPES = 1_000
_ID_LENGTH = 36
_NULL = "\\N"
_PRINTED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?[+-]\d\d", re.ASCII)
_NO_OUTCOME = Outcome(Verdict.OBSERVE)


class Recorded(NamedTuple):
    """What many rows have in common: the last columns of replay_rows.sql."""

    organization_id: str | None
    domain: str | None
    intent: str
    stage: str
    spec_id: str | None
    spec_version: str | None
    verdict: str | None
    matched_policy_ids: tuple[str, ...]
    snapshot_id: str | None
    verdict_organization_id: str | None
    verdict_domain: str | None
    verdict_spec_id: str | None
    verdict_spec_version: str | None


class Row(NamedTuple):
    """One decision with one verdict, fields still in COPY's text format. `noted`: see replay_rows.sql."""

    decision_id: str
    timestamp: str
    actor: str
    target: str
    context: str
    scope: str
    noted: str
    rest: str


@dataclass(frozen=True)
class Part:
    """What became of some decisions: counts, and a JSON line for each that is not the same."""

    totals: Totals
    lines: bytes


class Incomparable(Exception):
    """There is nothing to compare, or nothing that could be the same; `detail` is about this one decision."""

    def __init__(self, finding: Finding, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.finding = finding
        self.reason = reason
        self.detail = detail or reason


@dataclass
class _Case:
    """All rows that share their last columns: what decides them, or why nothing does."""

    recorded: Recorded
    expected: Outcome
    authority: Authority | None = None
    timed: bool = False
    obstacle: Incomparable | None = None
    bounds: dict[str, Bound] = field(default_factory=dict)


class Judge:
    """Compares with the recorded policies, or with a candidate's. One per session."""

    def __init__(self, library: Library, candidate: Candidate | None = None) -> None:
        self._library = library
        self._candidate = candidate
        self._cases: dict[str, _Case] = {}
        self._tried: dict[tuple[str, str, int], Evaluator] = {}

    def judge(self, lines: Iterable[str]) -> Part:
        """The rows of some decisions. With a candidate, of several verdicts on a decision the last counts."""
        totals, told = Totals(), []
        cases, findings, matrix = self._cases, totals.findings, totals.matrix
        strict = self._candidate is None
        for line in lines if strict else _latest(lines):
            row = line.split("\t", 7)
            case = cases.get(row[7]) or self._case(row[7])
            try:
                outcome, expected = self._outcome(case, row), case.expected
            except Incomparable as obstacle:
                findings[obstacle.finding] += 1
                totals.reasons[obstacle.finding, obstacle.reason] += 1
                if obstacle.finding is not Finding.UNATTRIBUTED:
                    told.append(_told(Row(*row), case.recorded, obstacle.finding, obstacle.detail))
                continue
            same = outcome.verdict is expected.verdict and (
                not strict or _same_policies(outcome.matched_policy_ids, expected.matched_policy_ids)
            )
            if strict and not same and (then := self._then(case, row)) is not None:
                outcome = then
                same = then.verdict is expected.verdict and _same_policies(
                    then.matched_policy_ids, expected.matched_policy_ids
                )
            matrix[expected.verdict, outcome.verdict] += 1
            if same:
                findings[Finding.SAME] += 1
            else:
                findings[Finding.DIFFERENT] += 1
                told.append(self._explain(Row(*row), case))
        return Part(totals, "".join(told).encode("utf-8", "replace"))

    def _outcome(self, case: _Case, row: list[str]) -> Outcome:
        """What the row's decision gets. Raises Incomparable."""
        if row[6] != _NULL or case.authority is None or case.authority.evaluator is None:
            found = self._evaluated(Row(*row), case)
            return Outcome(found.verdict, found.matched_policy_ids)
        bound = case.bounds.get(row[5]) or self._bind(case, case.authority.evaluator, row[5])
        return bound.decide(_object(row[4], "context"), _moment(row[1]) if case.timed else None)

    def _then(self, case: _Case, row: list[str]) -> Outcome | None:
        """With the scopes of that time, if others are there now: a policy of an unknown one failed closed."""
        if case.authority is None or case.authority.evaluator is None or case.recorded.snapshot_id is None:
            return None
        spec = case.authority.evaluator.spec
        evaluator = self._library.evaluator_then(spec, case.recorded.snapshot_id, row[0])
        if evaluator is None:
            return None
        before = replace(case, authority=replace(case.authority, evaluator=evaluator))
        found = self._evaluated(Row(*row), before)
        return Outcome(found.verdict, found.matched_policy_ids)

    def _bind(self, case: _Case, evaluator: Evaluator, scope: str) -> Bound:
        if len(case.bounds) >= _REMEMBERED_SCOPES:
            case.bounds.clear()
        bound = case.bounds[scope] = evaluator.bind(_object(scope, "scope"))
        return bound

    def _case(self, rest: str) -> _Case:
        if len(self._cases) >= _REMEMBERED_CASES:
            self._cases.clear()
        recorded = _recorded(rest)
        case = self._cases[rest] = _Case(recorded, _NO_OUTCOME)
        try:
            if recorded.verdict is None:
                raise Incomparable(Finding.UNCHECKABLE, "no verdict is recorded")
            case.expected = Outcome(parse_verdict(recorded.verdict), recorded.matched_policy_ids)
            case.authority = self._authority(case)
        except Incomparable as obstacle:
            case.obstacle = obstacle
        except InvalidModel as error:
            case.obstacle = Incomparable(Finding.UNCHECKABLE, error.message)
        return case

    def _authority(self, case: _Case) -> Authority:
        """What answers for the decision's own spec, as the service has it.

        Raises Incomparable, InvalidModel.
        """
        try:
            spec = self._spec(case.recorded)
        except Absent:
            raise
        except InvalidModel as error:
            if case.expected != Outcome(Verdict.BLOCK):
                raise
            return _closed(case.recorded, Verdict.BLOCK, error.message)
        case.timed = any(signal.source == "timestamp" for signal in spec.signals)
        strictest = most_severe(spec.allowed_verdicts)
        try:
            evaluator = self._evaluator(case.recorded, spec)
        except Absent:
            raise
        except InvalidModel as error:
            said = f"snapshot {case.recorded.snapshot_id}: {error.message}"
            return _closed(case.recorded, strictest, said)
        populator = Populator(spec.signals)
        return Authority(spec.spec_id, spec.version, evaluator, strictest, populator=populator)

    def _spec(self, recorded: Recorded) -> Spec:
        """The decision's own spec. Raises Incomparable, InvalidModel."""
        if missing := [name for name in ("organization_id", "domain") if getattr(recorded, name) is None]:
            raise Incomparable(Finding.UNATTRIBUTED, f"{' and '.join(missing)} missing")
        theirs = (recorded.verdict_spec_id, recorded.verdict_spec_version)
        if theirs != (recorded.spec_id, recorded.spec_version):
            raise _differ("decision and verdict name different specs", _spec_names(recorded))
        if recorded.spec_id is None or recorded.spec_version is None:
            raise Incomparable(Finding.UNATTRIBUTED, "no spec is recorded")
        assert recorded.organization_id is not None
        spec = self._library.spec(recorded.organization_id, recorded.spec_id, int(recorded.spec_version))
        own = (spec.organization_id, spec.domain, spec.intent, spec.stage)
        if own != (recorded.organization_id, recorded.domain, recorded.intent, recorded.stage):
            raise _differ(
                "the spec is for other decisions",
                f"spec {spec.spec_id} is for {spec.intent}, {spec.stage}, in {spec.domain} of {own[0]}",
            )
        return spec

    def _evaluator(self, recorded: Recorded, spec: Spec) -> Evaluator:
        if self._candidate is not None:
            return self._candidate_evaluator(self._candidate, spec)
        assert recorded.snapshot_id is not None
        domain, _ = self._library.policies(spec.organization_id, recorded.snapshot_id)
        if domain != (recorded.organization_id, recorded.domain):
            raise _differ(
                "the snapshot is another domain's",
                f"snapshot {recorded.snapshot_id} is {' / '.join(domain)}'s",
            )
        if (recorded.verdict_organization_id, recorded.verdict_domain) != domain:
            raise _differ("the verdict is recorded in another domain than its decision")
        return self._library.evaluator(spec, recorded.snapshot_id)

    def _candidate_evaluator(self, candidate: Candidate, spec: Spec) -> Evaluator:
        key, domain = (spec.organization_id, spec.spec_id, spec.version), (spec.organization_id, spec.domain)
        if key not in self._tried:
            known = {scope.scope_id: scope for scope in candidate.scopes.get(domain, ())}
            scopes = {**known, **{scope.scope_id: scope for scope in self._library.scopes(domain)}}
            self._tried[key] = Evaluator(spec, candidate.policies[domain], scopes.values())
        return self._tried[key]

    def _explain(self, row: Row, case: _Case) -> str:
        found = self._evaluated(row, case)
        return _told(row, case.recorded, Finding.DIFFERENT, _why(case.recorded, found), found)

    def _evaluated(self, row: Row, case: _Case) -> Evaluation:
        """With what the timeline notes of the decision: a text, or attribution that was not complete.

        Raises Incomparable.
        """
        noted = {} if row.noted == _NULL else _object(row.noted, "timeline")
        if case.recorded.spec_id is None and (found := _observed(noted.get("given"))):
            return found
        if case.authority is None:
            assert case.obstacle is not None
            raise case.obstacle
        decision = Decision(
            case.recorded.organization_id,
            case.recorded.domain,
            case.recorded.intent,
            Stage(case.recorded.stage),
            _object(row.context, "context"),
            _object(row.scope, "scope"),
            _moment(row.timestamp) if case.timed else None,
        )
        return case.authority.judge(decision, noted.get("unstructured_context"))[0]


def _observed(given: Any) -> Evaluation | None:
    """What a decision got of which this attribution was given, if that is not complete."""
    if not isinstance(given, dict):
        return None
    owner, domain, intent, stage = map(given.get, ("organization_id", "domain", "intent", "stage"))
    return unattributed(Decision(owner, domain, intent, stage))


def _closed(recorded: Recorded, verdict: Verdict, why: str) -> Authority:
    return Authority(str(recorded.spec_id), int(recorded.spec_version or 0), None, verdict, why)


def _latest(lines: Iterable[str]) -> Iterator[str]:
    """The last of each run of rows of one decision."""
    waiting: str | None = None
    for line in lines:
        if waiting is not None and not _same_decision(waiting, line):
            yield waiting
        waiting = line
    if waiting is not None:
        yield waiting


def _same_decision(one: str, other: str) -> bool:
    """Two organizations may each have a decision of that id."""
    if one[:_ID_LENGTH] != other[:_ID_LENGTH]:
        return False
    return one.split("\t", 8)[7] == other.split("\t", 8)[7]


def _recorded(rest: str) -> Recorded:
    values = [unescaped(value) for value in rest.removesuffix("\n").split("\t")]
    organization_id, domain, intent, stage, spec_id, spec_version, verdict, matched, *others = values
    return Recorded(
        *(organization_id, domain, intent or "", stage or "", spec_id, spec_version, verdict),
        tuple(json.loads(matched or "[]")),
        *others,
    )


def _object(field: str, name: str) -> dict[str, Any]:
    """A JSON object from a field. Raises Incomparable."""
    try:
        value = json.loads(field if "\\" not in field else unescaped(field) or "null", parse_float=exact)
    except (ValueError, RecursionError) as error:
        said = str(error) or "nested too deeply"
        raise Incomparable(Finding.UNCHECKABLE, f"its {name} cannot be read", said) from None
    if isinstance(value, dict):
        return value
    raise Incomparable(Finding.UNCHECKABLE, f"its {name} is not an object")


def _moment(field: str) -> datetime:
    try:
        return datetime.fromisoformat(field)
    except ValueError:
        raise Incomparable(Finding.UNCHECKABLE, "its timestamp cannot be read", field) from None


def _differ(reason: str, detail: str | None = None) -> Incomparable:
    return Incomparable(Finding.DIFFERENT, reason, detail)


def _spec_names(recorded: Recorded) -> str:
    return (
        f"the decision names {recorded.spec_id} version {recorded.spec_version},"
        f" its verdict {recorded.verdict_spec_id} version {recorded.verdict_spec_version}"
    )


def _same_policies(found: tuple[str, ...], recorded: tuple[str, ...]) -> bool:
    return found == recorded or sorted(found) == sorted(recorded)


def _why(recorded: Recorded, found: Evaluation) -> str:
    """One sentence for a person."""
    if found.verdict == recorded.verdict:
        before, after = (
            ", ".join(ids) or "none" for ids in (recorded.matched_policy_ids, found.matched_policy_ids)
        )
        return f"{found.verdict} stands, by other policies: recorded {before}, matching {after}"
    verb = "matches" if len(found.matched_policy_ids) == 1 else "match"
    because = "; ".join(found.reasons) or f"{', '.join(found.matched_policy_ids)} {verb}"
    return f"{recorded.verdict} is recorded, {found.verdict} comes out: {because}"


def _told(row: Row, recorded: Recorded, finding: Finding, why: str, found: Evaluation | None = None) -> str:
    """One line about one decision."""
    document = {
        "decision_id": row.decision_id,
        "timestamp": _rfc3339(row.timestamp),
        "organization_id": recorded.organization_id,
        "domain": recorded.domain,
        "intent": recorded.intent,
        "stage": recorded.stage,
        "actor": unescaped(row.actor),
        "target": unescaped(row.target),
        "spec_id": recorded.spec_id,
        "spec_version": recorded.spec_version and int(recorded.spec_version),
        "snapshot_id": recorded.snapshot_id,
        "finding": finding,
        "recorded": {"verdict": recorded.verdict, "matched_policy_ids": recorded.matched_policy_ids},
        "replayed": None if found is None else _replayed(recorded, found),
        "why": why,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=str) + "\n"


def _rfc3339(time: str) -> str:
    """A time as the API says it, from how PostgreSQL prints it; infinity and years past 9999 as they are."""
    return f"{time[:10]}T{time[11:]}:00" if _PRINTED.fullmatch(time) else time


def _replayed(recorded: Recorded, found: Evaluation) -> Mapping[str, Any]:
    """A new evaluation; of its trace the policies that matter: that match now or were recorded."""
    told = {*recorded.matched_policy_ids, *found.matched_policy_ids}
    return {
        "verdict": found.verdict,
        "matched_policy_ids": found.matched_policy_ids,
        "reasons": found.reasons,
        "failed_closed": found.failed_closed,
        "trace": [_trace(policy) for policy in found.trace if policy.policy_id in told],
    }


def _trace(policy: PolicyTrace) -> Mapping[str, Any]:
    return {
        "policy_id": policy.policy_id,
        "verdict": policy.verdict,
        "matched": policy.matched,
        "conditions": [
            {
                "field": seen.condition.field,
                "operator": seen.condition.operator,
                "expected": seen.condition.value,
                "actual": seen.actual,
                "held": seen.held,
            }
            for seen in policy.conditions
        ],
    }
