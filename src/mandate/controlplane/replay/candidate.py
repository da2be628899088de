"""Policies that are tried on the past: for each domain that they name, the whole snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mandate.controlplane.model import Policy, Scope

# (organization_id, domain)
Domain = tuple[str, str]


@dataclass(frozen=True)
class Candidate:
    """Policies by domain, and the scopes that would be recorded with them. Picklable."""

    policies: Mapping[Domain, tuple[Policy, ...]]
    scopes: Mapping[Domain, tuple[Scope, ...]] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains whose decisions are replayed."""
        return tuple(sorted(self.policies))
