"""A candidate's file: its policies by domain, checked against the specs and scopes that are recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from mandate.controlplane.dialect import Dialect
from mandate.controlplane.governance import (
    PolicySet,
    Surroundings,
    check_policies,
    read_policies,
    shapes,
)
from mandate.controlplane.model import InvalidModel, Policy, Scope, Spec, parse_spec
from mandate.controlplane.replay.candidate import Candidate, Domain
from mandate.controlplane.replay.holdings import Library
from mandate.errors import UsageError
from mandate.postgres.connection import Session


def load(
    session: Session,
    dialect: Dialect,
    path: Path,
    organization_id: str | None = None,
    domain: str | None = None,
) -> Candidate:
    """The policies of a file (see governance.read_policies), checked against recorded specs and scopes.

    What the file does not say, `organization_id` and `domain` do: a bare list is for `domain`, or else for
    the domains of the specs that it names. Raises InvalidDocument with every place, UsageError.
    """
    sets = read_policies(path)
    recorded = _Recorded(session, dialect)
    policies: dict[Domain, tuple[Policy, ...]] = {}
    scopes: dict[Domain, tuple[Scope, ...]] = {}
    for each in sets:
        domains = recorded.domains_of(each, organization_id, domain)
        declared = tuple(_scope(found.value) for found in each.entry.scopes)
        recorded.check(each, domains, declared)
        for found in domains:
            if found in policies:
                raise UsageError(f"{path} has policies of {found[1]} in organization {found[0]} twice")
            policies[found], scopes[found] = each.policies, declared
    return Candidate(policies, scopes)


class _Recorded:
    """What the database has that policies refer to."""

    def __init__(self, session: Session, dialect: Dialect) -> None:
        self._library = Library(session, dialect)
        self._names: dict[Domain, str] = {
            (row["organization_id"], row["domain"]): row["organization"]
            for row in session.rows(dialect.statements["replay_domains"])
        }
        self._specs: dict[Domain, list[Spec]] = defaultdict(list)
        self._unreadable: dict[Domain, set[str]] = defaultdict(set)
        for row in session.rows(dialect.statements["replay_specs"]):
            owner = (row["organization_id"], row["domain"])
            try:
                self._specs[owner].append(parse_spec(row))
            except InvalidModel:
                self._unreadable[owner].add(row["spec_id"])

    def domains_of(self, found: PolicySet, organization_id: str | None, domain: str | None) -> list[Domain]:
        """The domains that policies are for. Raises UsageError where that is none, or not clear."""
        name = found.domain or domain
        owners = {owner for owner in self._names if self._owned(owner, found, organization_id)}
        if not name:
            wanted = {policy.spec_id for policy in found.policies}
            return sorted(owner for owner in owners if wanted & {spec.spec_id for spec in self._specs[owner]})
        domains = sorted(owner for owner in owners if owner[1] == name)
        if not domains:
            where = found.organization or found.organization_id or organization_id
            raise UsageError(
                f"{found.source.name}: there is no domain {name}" + (f" of {where}" if where else "")
            )
        if len(domains) > 1 and not found.domain:
            return domains
        if len(domains) > 1:
            raise UsageError(
                f"{found.source.name}: {len(domains)} organizations have a domain {name}",
                hint="say which with --organization",
            )
        return domains

    def _owned(self, owner: Domain, found: PolicySet, organization_id: str | None) -> bool:
        said = found.organization_id or (None if found.organization else organization_id)
        if said is not None and owner[0] != said:
            return False
        return found.organization is None or self._names[owner] == found.organization

    def check(self, found: PolicySet, domains: Iterable[Domain], declared: Iterable[Scope]) -> None:
        """Whether policies can be meant. Raises InvalidDocument."""
        specs: dict[str, list[Spec]] = defaultdict(list)
        scopes = {scope.scope_id for scope in declared}
        unread: set[str] = set()
        for owner in domains:
            scopes |= {scope.scope_id for scope in self._library.scopes(owner)}
            unread |= self._unreadable[owner]
            for spec in self._specs[owner]:
                specs[spec.spec_id].append(spec)
        names = ", ".join(sorted({name for _, name in domains})) or "of this database"
        check_policies(found, Surroundings(names, specs, scopes, frozenset(unread)))


def _scope(declared: shapes.Scope) -> Scope:
    return Scope(
        declared.scope_id,
        declared.environment,
        declared.service,
        declared.agent,
        declared.system,
        declared.tenant,
        declared.owning_team,
    )
