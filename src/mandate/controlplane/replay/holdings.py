"""What recorded decisions were evaluated with: specs, snapshots and scopes, read once and compiled once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from mandate.controlplane.dialect import Dialect
from mandate.controlplane.evaluator import Evaluator
from mandate.controlplane.model import (
    InvalidModel,
    Policy,
    Scope,
    Spec,
    parse_policies,
    parse_spec,
)
from mandate.controlplane.replay.candidate import Domain
from mandate.postgres.connection import Row, Session

T = TypeVar("T")
_REMEMBERED = 512


class Absent(InvalidModel):
    """A decision names something that is not recorded."""

    code = "not-recorded"


class Library:
    """Specs, snapshots, scopes and evaluators by key, as one session sees them; bounded caches.

    What cannot be had raises InvalidModel (Absent where it is not there at all), each time it is asked for.
    """

    def __init__(self, session: Session, dialect: Dialect) -> None:
        self._session = session
        self._statements = dialect.statements
        self._caches: dict[str, dict[Hashable, Any]] = {}

    def spec(self, organization_id: str, spec_id: str, version: int) -> Spec:
        """One version of a spec: the organization's own, or another's where ids belong to the database."""
        key = (organization_id, spec_id, version)
        return self._remembered("spec", key, lambda: self._read_spec(*key))

    def policies(self, organization_id: str, snapshot_id: str) -> tuple[Domain, tuple[Policy, ...]]:
        """Whose a snapshot is, and its policies. Of which organization: as `spec`."""
        key = (organization_id, snapshot_id)
        return self._remembered("snapshot", key, lambda: self._read_snapshot(*key))

    def scopes(self, domain: Domain) -> tuple[Scope, ...]:
        """The scopes of a domain."""
        return self._remembered("scopes", domain, lambda: self._read_scopes(domain))

    def evaluator(self, spec: Spec, snapshot_id: str) -> Evaluator:
        """The evaluator of a spec under a snapshot."""
        key = (spec.organization_id, spec.spec_id, spec.version, snapshot_id)
        return self._remembered("evaluator", key, lambda: self._compile(spec, snapshot_id))

    def evaluator_then(self, spec: Spec, snapshot_id: str, decision_id: str) -> Evaluator | None:
        """The same with the scopes of when a decision got its verdict; None where those are the same."""
        domain, policies = self.policies(spec.organization_id, snapshot_id)
        keys = {"organization_id": domain[0], "domain": domain[1], "decision_id": decision_id}
        then = {row["scope_id"] for row in self._session.rows(self._statements["replay_scopes_then"], keys)}
        known = tuple(scope for scope in self.scopes(domain) if scope.scope_id in then)
        if len(known) == len(self.scopes(domain)):
            return None
        key = (spec.organization_id, spec.spec_id, spec.version, snapshot_id, known)
        return self._remembered("evaluator", key, lambda: Evaluator(spec, policies, known))

    def _remembered(self, kind: str, key: Hashable, make: Callable[[], T]) -> T:
        cache: dict[Hashable, T] = self._caches.setdefault(kind, {})
        if key not in cache:
            if len(cache) >= _REMEMBERED:
                cache.clear()
            cache[key] = make()
        return cache[key]

    def _compile(self, spec: Spec, snapshot_id: str) -> Evaluator:
        domain, policies = self.policies(spec.organization_id, snapshot_id)
        return Evaluator(spec, policies, self.scopes(domain))

    def _read_spec(self, organization_id: str, spec_id: str, version: int) -> Spec:
        params = {"organization_id": organization_id, "spec_id": spec_id, "version": version}
        row = self._row("replay_spec", params)
        if row is None:
            raise Absent(f"spec {spec_id} version {version} is not recorded")
        return parse_spec(row)

    def _read_snapshot(self, organization_id: str, snapshot_id: str) -> tuple[Domain, tuple[Policy, ...]]:
        row = self._row("replay_snapshot", {"organization_id": organization_id, "snapshot_id": snapshot_id})
        if row is None:
            raise Absent(f"snapshot {snapshot_id} is not recorded")
        return (row["organization_id"], row["domain"]), parse_policies(row["policies"])

    def _row(self, statement: str, params: dict[str, Any]) -> Row | None:
        try:
            return self._session.row(self._statements[statement], params)
        except (ValueError, RecursionError) as error:
            said = str(error) or "nested too deeply"
            raise InvalidModel(f"{' '.join(map(str, params.values()))} cannot be read: {said}") from error

    def _read_scopes(self, domain: Domain) -> tuple[Scope, ...]:
        keys = {"organization_id": domain[0], "domain": domain[1]}
        rows = self._session.rows(self._statements["replay_scopes"], keys)
        return tuple(Scope(**row) for row in rows)
