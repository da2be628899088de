"""The two forms of the same history: version 7 with UUID keys, version 8 with readable ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mandate.controlplane.seed.world import Domain, World

Version = Literal[7, 8]

DECISIONS, VERDICTS, TIMELINE = "decision_events", "verdict_events", "audit_timeline_entries"

# The columns that vary from row to row come first; the rest of a line is rendered once per case.
_COLUMNS = {
    DECISIONS: (
        "decision_id timestamp created_at target intent stage actor context scope organization_id"
        " domain_id spec_id spec_version"
    ),
    VERDICTS: (
        "verdict_id decision_id timestamp created_at snapshot_id verdict matched_policy_ids organization_id"
        " domain_id spec_id spec_version scope_id owning_team domain"
    ),
    TIMELINE: (
        "entry_id decision_id timestamp created_at target intent stage actor summary details severity"
        " event_source authority_level organization_id domain_id spec_id spec_version"
    ),
}


@dataclass(frozen=True)
class Dialect:
    """How one version names and writes the keys of domains and scopes."""

    version: Version
    world: World

    @property
    def domain_column(self) -> str:
        return "domain_id" if self.version == 7 else "domain"

    def domain(self, domain: Domain) -> str:
        """The key of a domain, within its organization."""
        return domain.domain_id if self.version == 7 else domain.name

    def scope(self, scope_id: str) -> str:
        """The key of a scope, given its UUID."""
        return scope_id if self.version == 7 else self.world.readable[scope_id]

    def columns(self, table: str) -> tuple[str, ...]:
        """The columns of one of the three large tables, in the order of the generated lines."""
        names = _COLUMNS[table].split()
        if self.version == 8:
            names = [
                self.domain_column if name == "domain_id" else name for name in names if name != "domain"
            ]
        return tuple(names)
