"""The policies of a domain as its people refined them over four snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mandate.controlplane.model import Stage, Verdict
from mandate.controlplane.seed.catalogue import Family, Kind

PRODUCTION = "Production"
STAGING = "Staging"


@dataclass(frozen=True)
class _Rule:
    """`scope` is general, staging, system or kind (the kind's own); in force from snapshot `since` on."""

    name: str
    title: str
    verdict: Verdict
    scope: str
    stages: tuple[Stage, ...]
    since: int
    conditions: Callable[[Kind, int], list[dict[str, Any]]]


def _when(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


def _large(kind: Kind, version: int) -> list[dict[str, Any]]:
    return [_when(kind.number, ">", kind.amounts[7 if version < 4 else 6])]


def _unchecked(kind: Kind, _version: int) -> list[dict[str, Any]]:
    return [_when(kind.check, "==", False)]


def _delicate(kind: Kind, _version: int) -> list[dict[str, Any]]:
    return [_when(kind.choice, "in", [kind.choices[-1]]), _when(kind.number, ">=", kind.amounts[3])]


def _outside(kind: Kind, _version: int) -> list[dict[str, Any]]:
    return [_when("environment", "!=", PRODUCTION), _when(kind.number, ">=", kind.amounts[-1])]


def _small(kind: Kind, _version: int) -> list[dict[str, Any]]:
    return [_when(kind.number, "<=", kind.amounts[2])]


def _tiny(kind: Kind, _version: int) -> list[dict[str, Any]]:
    return [_when(kind.number, "<", kind.amounts[1])]


_PROPOSED, _PRE_COMMIT, _EXECUTED = Stage.PROPOSED, Stage.PRE_COMMIT, Stage.EXECUTED
_RULES = (
    _Rule("watch-staging", "Watch everything in staging", Verdict.OBSERVE, "staging",
          (_PROPOSED, _PRE_COMMIT), 1, lambda _kind, _version: []),
    _Rule("watch-system", "Watch what touches the system of record", Verdict.OBSERVE, "system",
          (_EXECUTED,), 1, lambda _kind, _version: []),
    _Rule("allow-small", "Small ones need nobody", Verdict.ALLOW, "general", (_PROPOSED,), 2, _small),
    _Rule("pause-large", "A person looks at large ones", Verdict.PAUSE, "general",
          (_PROPOSED, _PRE_COMMIT), 2, _large),
    _Rule("block-unchecked", "Nothing happens unchecked", Verdict.BLOCK, "kind",
          (_PRE_COMMIT, _EXECUTED), 3, _unchecked),
    _Rule("pause-delicate", "A person looks at delicate ones", Verdict.PAUSE, "kind",
          (_PRE_COMMIT,), 3, _delicate),
    _Rule("block-outside", "Nothing very large outside production", Verdict.BLOCK, "general",
          (_PRE_COMMIT,), 4, _outside),
    _Rule("watch-tiny", "Tiny ones are only counted", Verdict.OBSERVE, "general", (_EXECUTED,), 4, _tiny),
)  # fmt: skip


def policies(
    family: Family, spec_ids: Mapping[tuple[str, Stage], str], scope_ids: Mapping[str, str], version: int
) -> Iterator[dict[str, Any]]:
    """Snapshot `version` as stored JSON. `scope_ids` by general, staging, system and intent."""
    for kind in family.kinds:
        for rule in _RULES:
            if version < rule.since:
                continue
            for stage in rule.stages:
                yield {
                    "id": f"{family.name}-{kind.intent}-{stage}-{rule.name}",
                    "name": rule.title,
                    "spec_id": spec_ids[kind.intent, stage],
                    "scope_id": scope_ids[kind.intent if rule.scope == "kind" else rule.scope],
                    "conditions": rule.conditions(kind, version),
                    "verdict": rule.verdict.value,
                }
