"""What is wrong with the specs and policies that a database has already: each named as people know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mandate.controlplane.governance import documents, planning, render, store
from mandate.controlplane.governance.source import Path, Source
from mandate.controlplane.governance.state import State
from mandate.postgres.connection import Session

# Which key of an entry is its name, for each list that it may be in.
_NAMES = {"domains": ("domain", "domain"), "specs": ("spec", "spec_id"), "policies": ("policy", "id")}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: `where` in words, `message` what."""

    organization: str
    domain: str | None
    where: str
    message: str


@dataclass(frozen=True)
class Review:
    """How much was looked at, and what is wrong with it."""

    version: int
    domains: int
    specs: int
    policies: int
    findings: tuple[Finding, ...]


def review(session: Session) -> Review:
    """Look at every spec that is active or a draft and at every domain's newest snapshot; 7 and 8.

    Raises NotMandate.
    """
    version = store.version_of(session)
    state = store.everything(session)
    return Review(
        version,
        len(state.domains),
        sum(row["status"] != "deprecated" for row in state.specs),
        sum(len(row["policies"]) for row in state.snapshots),
        findings(state),
    )


def findings(state: State) -> tuple[Finding, ...]:
    """What is wrong, in the order of organizations and domains."""
    source = Source("database", render.documents(state, rules_only=True))
    plan = planning.plan(documents.parse(source), state, lambda what: what)
    names = {row["organization_id"]: row["name"] for row in state.organizations}
    ordered = sorted(
        {*plan.defects, *plan.conflicts}, key=lambda defect: (_order(defect.path), defect.message)
    )
    return tuple(_finding(source, defect.path, defect.message, names) for defect in ordered if defect.path)


def _order(path: Path) -> tuple[tuple[bool, int, str], ...]:
    return tuple((isinstance(part, str), part if isinstance(part, int) else 0, str(part)) for part in path)


def _finding(source: Source, path: Path, message: str, names: Mapping[str, str]) -> Finding:
    value: Any = source.documents[int(path[0])]
    organization = names[value["organization"]["organization_id"]]
    words: list[str] = []
    domain: str | None = None
    kind = ""
    for part in path[1:]:
        value = _inner(value, part)
        if isinstance(part, int) and kind in _NAMES:
            what, key = _NAMES[kind]
            name = value.get(key, part + 1) if isinstance(value, Mapping) else part + 1
            version = f" version {value['version']}" if kind == "specs" else ""
            domain = str(name) if kind == "domains" else domain
            words.append(f"{what} {name}{version}")
        elif isinstance(part, int):
            words.append(f"{kind.removesuffix('s')} {part + 1}")
        elif part not in (*_NAMES, "conditions", "signals", "values"):
            words.append(part)
        kind = str(part)
    return Finding(organization, domain, ", ".join([organization, *words]), message)


def _inner(value: Any, part: str | int) -> Any:
    try:
        return value[part]
    except (KeyError, IndexError, TypeError):
        return None
