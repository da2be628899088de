"""What a history takes place in: organizations, domains, scopes, specs and policy snapshots.

Keys are version 7's UUIDs throughout; `World.readable` has version 8's scope ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from mandate.controlplane.model import (
    Scope,
    Signal,
    SignalType,
    Spec,
    Stage,
    Verdict,
)
from mandate.controlplane.seed.catalogue import FAMILIES, FIRST, LAST, SECOND, Family, Kind
from mandate.controlplane.seed.identity import readable, slug
from mandate.controlplane.seed.parameters import Parameters
from mandate.controlplane.seed.policies import PRODUCTION, STAGING, policies

EPOCHS = 4
_DOMAINS_PER_ORGANIZATION = 10
# Migration 003 has a scope without selectors, or may have one, in domains of these names.
_EXAMPLE_DOMAINS = ("finance", "logistics", "customer-support", "infrastructure", "hr")


@dataclass(frozen=True)
class Organization:
    """An enterprise; its name is also its tenant selector."""

    organization_id: str
    name: str

    @property
    def tag(self) -> str:
        """The first word of the name, which no other organization of the history has."""
        return slug(self.name.split()[0])


@dataclass(frozen=True)
class SeedSpec:
    """A spec with the columns that evaluation does not need."""

    spec: Spec
    status: str
    replaced_by: str | None
    created_at: datetime


@dataclass(frozen=True)
class Snapshot:
    """Policies in force from `created_at` on, as stored JSON with UUID scope ids."""

    snapshot_id: str
    version: int
    created_at: datetime
    policies: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Domain:
    """One domain of one organization. `rank` 0 has the most decisions."""

    domain_id: str
    rank: int
    organization: Organization
    family: Family
    scopes: tuple[Scope, ...]
    specs: tuple[SeedSpec, ...]
    snapshots: tuple[Snapshot, ...]
    unselective_scope: Scope | None

    @property
    def name(self) -> str:
        return self.family.name


@dataclass(frozen=True)
class World:
    """Everything but the events."""

    parameters: Parameters
    organizations: tuple[Organization, ...]
    domains: tuple[Domain, ...]
    readable: dict[str, str]

    @property
    def created_at(self) -> datetime:
        """When organizations, domains and scopes were recorded."""
        return self.parameters.since - timedelta(days=30)


def build(parameters: Parameters) -> World:
    """The world of a history. Pure."""
    organizations = _organizations(parameters)
    places = [_place(rank, len(organizations)) for rank in range(parameters.domains)]
    # A database of version 7 takes one scope without any selector, so a history has at most one.
    unselective = next((rank for rank, (_, family) in enumerate(places) if _may_be_unselective(family)), None)
    domains = tuple(
        _domain(parameters, rank, organizations[owner], family, rank == unselective)
        for rank, (owner, family) in enumerate(places)
    )
    return World(parameters, organizations, domains, readable(_by_id(domains)))


def all_scopes(domain: Domain) -> Iterator[Scope]:
    """The scopes of a domain, the unselective one last."""
    yield from domain.scopes
    if domain.unselective_scope is not None:
        yield domain.unselective_scope


def _by_id(domains: tuple[Domain, ...]) -> dict[str, tuple[str, Scope]]:
    return {scope.scope_id: (domain.name, scope) for domain in domains for scope in all_scopes(domain)}


def _organizations(parameters: Parameters) -> tuple[Organization, ...]:
    count = min(parameters.domains, max(3, -(-parameters.domains // _DOMAINS_PER_ORGANIZATION)))
    random = Random(f"{parameters.key} organizations")
    names: dict[str, str] = {}
    while len(names) < count:
        first, second, last = (words[int(random.random() * len(words))] for words in (FIRST, SECOND, LAST))
        names.setdefault(first + second, f"{first}{second} {last}")
    return tuple(
        Organization(parameters.identifier("organization", index), name)
        for index, name in enumerate(names.values())
    )


def _place(rank: int, organizations: int) -> tuple[int, Family]:
    """Owner and family of a domain. The first two organizations both begin with finance."""
    owner, nth = rank % organizations, rank // organizations
    if owner > 1:
        return owner, FAMILIES[(nth + 5 * owner - 9) % len(FAMILIES)]
    if nth == 0:
        return owner, FAMILIES[0]
    others = FAMILIES[1:]
    return owner, others[(nth - 1 + 4 * owner) % len(others)]


def _may_be_unselective(family: Family) -> bool:
    return family.name not in _EXAMPLE_DOMAINS


def _domain(
    parameters: Parameters, rank: int, owner: Organization, family: Family, unselective: bool
) -> Domain:
    scopes = _scopes(parameters, rank, owner, family)
    empty = Scope(parameters.identifier("scope", rank, "default"), owning_team=family.team)
    bare = Domain(
        parameters.identifier("domain", rank),
        rank,
        owner,
        family,
        scopes,
        tuple(_specs(parameters, owner, family)),
        (),
        empty if unselective else None,
    )
    return replace(bare, snapshots=tuple(_snapshots(parameters, bare)))


def _scopes(parameters: Parameters, rank: int, owner: Organization, family: Family) -> tuple[Scope, ...]:
    """Every one is particular to its organization: selectors are unique over a whole version 7 database."""
    tenant, team = owner.name, family.team
    found = [
        Scope("general", tenant=tenant, owning_team=team),
        Scope("staging", environment=STAGING, tenant=tenant, owning_team=team),
        Scope("system", system=family.system, tenant=tenant, owning_team=f"{family.system} Integration"),
    ]
    for kind in family.kinds:
        scope = Scope(
            kind.intent,
            environment=PRODUCTION,
            service=kind.service,
            agent=kind.agent,
            tenant=tenant,
            owning_team=f"{team}: {kind.service}",
        )
        found.append(scope)
        if rank == 0 and slug(kind.agent) != kind.agent:
            # Meets the one before when both are slugged.
            found.append(replace(scope, scope_id=f"{kind.intent}/slug", agent=slug(kind.agent)))
    return tuple(
        replace(scope, scope_id=parameters.identifier("scope", rank, scope.scope_id)) for scope in found
    )


def _specs(parameters: Parameters, owner: Organization, family: Family) -> Iterator[SeedSpec]:
    created = parameters.since - timedelta(days=20)
    renewed = parameters.since + timedelta(days=parameters.days) / 2
    for position, kind in enumerate(family.kinds):
        for stage in Stage:
            spec = _spec(owner, family, kind, stage)
            if position == 0 and stage is Stage.PRE_COMMIT:
                yield SeedSpec(without_choice(spec, kind), "deprecated", f"{spec.spec_id}:2", created)
                yield SeedSpec(replace(spec, version=2), "active", None, renewed)
            else:
                yield SeedSpec(spec, "active", None, created)
            if position == 1 and stage is Stage.EXECUTED:
                yield SeedSpec(replace(spec, version=2), "draft", None, renewed)


def without_choice(spec: Spec, kind: Kind) -> Spec:
    """The first version of a spec: it did not declare the kind's choice yet."""
    return replace(spec, signals=tuple(s for s in spec.signals if s.name != kind.choice))


def _spec(owner: Organization, family: Family, kind: Kind, stage: Stage) -> Spec:
    proposed = stage is Stage.PROPOSED
    executed = (Verdict.ALLOW, Verdict.BLOCK, Verdict.OBSERVE)
    return Spec(
        spec_id=f"{owner.tag}.{family.name}.{kind.intent}.{stage}",
        version=1,
        organization_id=owner.organization_id,
        domain=family.name,
        intent=kind.intent,
        stage=stage,
        allowed_verdicts=executed if stage is Stage.EXECUTED else tuple(Verdict),
        signals=(
            _signal(kind.number, "number", required=True),
            _signal(kind.check, "boolean", required=not proposed),
            Signal(kind.choice, "enum", "context", values=kind.choices),
            Signal("environment", "string", "scope"),
        ),
        default_verdict=None if proposed else Verdict.ALLOW,
    )


def _signal(name: str, type: SignalType, *, required: bool) -> Signal:
    return Signal(name, type, "context", required)


def _snapshots(parameters: Parameters, domain: Domain) -> Iterator[Snapshot]:
    """Version 1 is older than the first decision; the others come at a quarter, a half, three quarters."""
    spec_ids = {(seed.spec.intent, seed.spec.stage): seed.spec.spec_id for seed in domain.specs}
    names = ("general", "staging", "system", *(kind.intent for kind in domain.family.kinds))
    scope_ids = {name: parameters.identifier("scope", domain.rank, name) for name in names}
    random = Random(f"{parameters.key} snapshots {domain.rank}")
    length = timedelta(days=parameters.days)
    for version in range(1, EPOCHS + 1):
        drift = timedelta(seconds=int(random.random() * length.total_seconds() / 50))
        begin = -timedelta(days=10) if version == 1 else length * (version - 1) / EPOCHS
        yield Snapshot(
            parameters.identifier("snapshot", domain.rank, version),
            version,
            parameters.since + begin + drift,
            tuple(policies(domain.family, spec_ids, scope_ids, version)),
        )
