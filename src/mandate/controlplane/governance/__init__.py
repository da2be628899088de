"""Organizations, domains, scopes, specs and policies as people write them, and what becomes of them.

`read_policies` reads the policies of a file (for replay); `parse` reads a whole mandate.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mandate.controlplane import model
from mandate.controlplane.governance import checking, documents, source
from mandate.controlplane.governance.checking import Surroundings
from mandate.controlplane.governance.source import Defect, InvalidDocument, Source

__all__ = ["InvalidDocument", "PolicySet", "Surroundings", "check_policies", "read_policies"]


@dataclass(frozen=True)
class PolicySet:
    """All policies of one domain, as a snapshot would have them.

    `organization` is a name, `organization_id` a UUID in lower case; both None when the file does not say
    whose they are. `domain` is '' for a bare list. `stored` is the JSON of policy_snapshots.policies.
    """

    organization: str | None
    organization_id: str | None
    domain: str
    policies: tuple[model.Policy, ...]
    stored: tuple[dict[str, object], ...]
    entry: documents.DomainEntry
    source: Source


def read_policies(path: Path) -> tuple[PolicySet, ...]:
    """The policies of a YAML file: a mandate.yaml, one without `organization`, or a bare list of policies.

    Domains without `policies` are left out. Raises InvalidDocument with every defect and its place, and
    UsageError when there is no such file.
    """
    document = documents.parse_candidate(source.read_file(path))
    defects = list(document.defects)
    for organization in document.organizations:
        for entry in organization.domains:
            defects += checking.check_entry(entry)
    refuse(document.source, defects)
    found = [
        _policy_set(organization, entry, document.source)
        for organization in document.organizations
        for entry in organization.domains
        if entry.policies is not None
    ]
    if not found:
        refuse(document.source, [Defect("there are no policies in it", (0,))])
    return tuple(found)


def check_policies(candidate: PolicySet, around: Surroundings) -> None:
    """Whether policies fit the specs and scopes that there are. Raises InvalidDocument with every defect."""
    refuse(candidate.source, checking.check_policies(candidate.entry.policies or (), around))


def refuse(source: Source, defects: Iterable[Defect]) -> None:
    """Raise InvalidDocument if there is any defect."""
    located = source.located(defects)
    if located:
        raise InvalidDocument(source.name, located)


def _policy_set(
    organization: documents.OrganizationEntry, entry: documents.DomainEntry, source: Source
) -> PolicySet:
    who = organization.organization.value if organization.organization else None
    stored = tuple(checking.policy_content(policy.value) for policy in entry.policies or ())
    return PolicySet(
        who.name if who else None,
        who.organization_id if who else None,
        entry.domain.value.domain,
        model.parse_policies(list(stored)),
        stored,
        entry,
        source,
    )
