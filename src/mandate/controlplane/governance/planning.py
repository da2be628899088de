"""What a document would change in a database: the diff. Pure.

Nothing is ever edited. What is there and equal stays; a spec or a snapshot that differs becomes a new
version; anything else that differs is a conflict, told with its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mandate.controlplane import model
from mandate.controlplane.governance import checking, shapes, succession
from mandate.controlplane.governance.documents import Document, DomainEntry, Located, OrganizationEntry
from mandate.controlplane.governance.source import Defect
from mandate.controlplane.governance.state import Row, State, Wanted, normal_policy, normal_spec, same

Kind = Literal["organization", "domain", "scope", "spec", "policies"]
NewId = Callable[[str], str]
"""An id for something new, the same one each time that the same thing is asked for."""

_SELECTORS = model.SELECTORS
_DESCRIPTIVE = ("owning_team", "owner_contact", "description")


@dataclass(frozen=True)
class Change:
    """One thing of the document. `row` is what is, or will be, in the database; `created` says which.

    `event`: what is appended about a spec that is recorded already.
    """

    kind: Kind
    created: bool
    organization: str
    domain: str | None
    name: str
    row: Row = field(repr=False)
    details: tuple[str, ...] = ()
    event: succession.Event | None = None

    @property
    def action(self) -> Literal["create", "activate", "retire", "same"]:
        """In one word."""
        if self.event is not None:
            return "activate" if self.event == "activated" else "retire"
        return "create" if self.created else "same"

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "action": self.action,
            "kind": self.kind,
            "organization": self.organization,
            "domain": self.domain,
            "name": self.name,
            "details": list(self.details),
        }


@dataclass(frozen=True)
class Plan:
    """The diff, in the order of the document. `defects` cannot be meant; `conflicts` cannot be reached."""

    changes: tuple[Change, ...]
    defects: tuple[Defect, ...] = ()
    conflicts: tuple[Defect, ...] = ()

    @property
    def creations(self) -> tuple[Change, ...]:
        """What will be created, in an order in which it can be."""
        order: Sequence[Kind] = ("organization", "domain", "scope", "spec", "policies")
        new = (change for change in self.changes if change.created)
        return tuple(sorted(new, key=lambda change: order.index(change.kind)))


def wanted(document: Document) -> Wanted:
    """What of the database has to be read for a document."""
    named = [entry.organization.value for entry in document.organizations if entry.organization]
    domains = [domain for entry in document.organizations for domain in entry.domains]
    return Wanted(
        names=frozenset(each.name for each in named if each.name),
        ids=frozenset(each.organization_id for each in named if each.organization_id),
        scopes=frozenset(scope.value.scope_id for domain in domains for scope in domain.scopes),
        specs=frozenset(spec.value.spec_id for domain in domains for spec in domain.specs),
    )


def plan(document: Document, state: State, new_id: NewId) -> Plan:
    """The diff of a document against a database."""
    planner = _Planner(state, new_id)
    for entry in document.organizations:
        planner.organization(entry)
    return Plan(tuple(planner.changes), (*document.defects, *planner.defects), tuple(planner.conflicts))


@dataclass(frozen=True)
class _Place:
    """Whose entry is looked at."""

    organization_id: str
    organization: str
    domain: str

    @property
    def key(self) -> dict[str, str]:
        return {"organization_id": self.organization_id, "domain": self.domain}

    def owns(self, row: Row) -> bool:
        return bool(row["organization_id"] == self.organization_id and row["domain"] == self.domain)


class _Planner:
    def __init__(self, state: State, new_id: NewId) -> None:
        self._new_id = new_id
        self._by_organization = state.by_organization
        # Grow as the document is read: what one entry creates is there for the next.
        self._organizations = list(state.organizations)
        self._domains = list(state.domains)
        self._scopes = {self._scope_key(row["organization_id"], row["scope_id"]): row for row in state.scopes}
        self._specs = list(state.specs)
        self._snapshots = {(row["organization_id"], row["domain"]): row for row in state.snapshots}
        self._seen: set[tuple[str, str]] = set()
        self._disputed: set[str] = set()
        self._succeeded: list[tuple[Row, Row]] = []
        self.changes: list[Change] = []
        self.defects: list[Defect] = []
        self.conflicts: list[Defect] = []

    # Organizations.

    def organization(self, entry: OrganizationEntry) -> None:
        """Plan one document."""
        if entry.organization is None:
            return
        row = self._organization(entry.organization, entry.declared)
        for domain in entry.domains:
            self.defects += checking.check_entry(domain)
            if row is not None:
                self._domain(domain, row)

    def _organization(self, entry: Located[shapes.Organization], declared: bool) -> Row | None:
        value = entry.value
        by_id = next((r for r in self._organizations if r["organization_id"] == value.organization_id), None)
        by_name = next((r for r in self._organizations if r["name"] == value.name), None)
        if by_id and value.name and by_id["name"] != value.name:
            said = f"organization {value.organization_id} is called {by_id['name']}, for ever"
            self.conflicts.append(Defect(said, (*entry.path, "name")))
            return None
        if by_name and value.organization_id and by_name is not by_id:
            said = f"{value.name} has organization_id {by_name['organization_id']}"
            self.conflicts.append(Defect(said, (*entry.path, "organization_id")))
            return None
        found = by_id or by_name
        if found is not None:
            self._unchanged(entry, found, ("description", "metadata"), f"organization {found['name']}")
            if declared:
                self._add("organization", False, found, None, found["name"], found)
            return found
        return self._new_organization(entry, declared)

    def _new_organization(self, entry: Located[shapes.Organization], declared: bool) -> Row | None:
        value = entry.value
        if not declared or value.name is None:
            if value.organization_id is not None:
                self.defects.append(Defect(f"there is no organization {value.organization_id}", entry.path))
            return None
        row = {
            "organization_id": value.organization_id or self._new_id(f"organization {value.name}"),
            "name": value.name,
            "description": value.description,
            "metadata": value.metadata or {},
        }
        self._organizations.append(row)
        self._add("organization", True, row, None, value.name, row)
        return row

    # Domains.

    def _domain(self, entry: DomainEntry, organization: Row) -> None:
        value, path = entry.domain.value, entry.domain.path
        place = _Place(organization["organization_id"], organization["name"], value.domain)
        if (place.organization_id, place.domain) in self._seen:
            self.defects.append(Defect(f"domain {value.domain} is here twice", path))
        self._seen.add((place.organization_id, place.domain))
        found = next((row for row in self._domains if place.owns(row)), None)
        if found is None and not entry.declared:
            said = f"{organization['name']} has no domain {value.domain}"
            self.defects.append(Defect(said, path))
            return
        if found is None:
            row = {**place.key, "description": value.description, "metadata": value.metadata or {}}
            self._domains.append(row)
            self._add("domain", True, organization, value.domain, value.domain, row)
        elif entry.declared:
            self._unchanged(entry.domain, found, ("description", "metadata"), f"domain {value.domain}")
            self._add("domain", False, organization, value.domain, value.domain, found)
        for scope in entry.scopes:
            self._scope(scope, place)
        for spec in entry.specs:
            self._spec(spec, place)
        self._policies(entry, place)

    def _unchanged(
        self, entry: Located[Any], row: Row, names: Sequence[str], what: str, hint: str = ""
    ) -> None:
        """A conflict for each of the fields that is given and differs."""
        for name in names:
            given = getattr(entry.value, name)
            if given is not None and not same(given, row[name]):
                has = "none" if row[name] is None else repr(row[name])[:200]
                said = f"{what} has another {name}, and cannot be changed: {has}{hint}"
                self.conflicts.append(Defect(said, (*entry.path, name)))

    # Scopes.

    def _scope(self, entry: Located[shapes.Scope], place: _Place) -> None:
        value = entry.value
        key = self._scope_key(place.organization_id, value.scope_id)
        found = self._scopes.get(key)
        if found is None:
            given = {name: getattr(value, name) for name in (*_SELECTORS, *_DESCRIPTIVE)}
            row = {"scope_id": value.scope_id, **place.key, **given}
            self._scopes[key] = row
            self._add("scope", True, place, place.domain, value.scope_id, row)
            return
        if not place.owns(found):
            said = f"{value.scope_id} belongs to another organization: choose another id"
            if found["organization_id"] == place.organization_id:
                said = f"{value.scope_id} belongs to domain {found['domain']}"
            self._disputed.add(value.scope_id)
            self.conflicts.append(Defect(said, (*entry.path, "scope_id")))
            return
        for name in _SELECTORS:
            if (getattr(value, name) or None) != (found[name] or None):
                has = f"{name} {found[name]}" if found[name] else f"no {name}"
                said = f"scope {value.scope_id} has {has}, and cannot be changed: choose a new scope_id"
                self.conflicts.append(Defect(said, (*entry.path, name)))
        self._unchanged(entry, found, _DESCRIPTIVE, f"scope {value.scope_id}", "; choose a new scope_id")
        self._add("scope", False, place, place.domain, value.scope_id, found)

    def _scope_key(self, organization_id: str, scope_id: str) -> tuple[str, str]:
        return (organization_id if self._by_organization else "", scope_id)

    # Specs.

    def _spec(self, entry: Located[shapes.Spec], place: _Place) -> None:
        value = entry.value
        line = [
            row
            for row in self._specs
            if place.owns(row)
            and (row["spec_id"], row["intent"], row["stage"]) == (value.spec_id, value.intent, value.stage)
        ]
        if self._by_organization:
            self._succeed(entry, place, line)
            return
        if value.version is not None:
            found = next((row for row in line if row["version"] == value.version), None)
        else:
            found = max(
                (row for row in line if row["status"] == value.status),
                key=lambda row: int(row["version"]),
                default=None,
            )
        differing = _differing(value, found) if found else []
        if found and not differing:
            self._add("spec", False, place, place.domain, succession.named(found), found)
            return
        if found and value.version is not None:
            self._dispute(entry, succession.never_changes(value, found, differing))
            return
        self._new_spec(entry, place, found, differing)

    def _succeed(self, entry: Located[shapes.Spec], place: _Place, line: Sequence[Row]) -> None:
        value = entry.value
        step = succession.step(value, line, lambda row: _differing(value, row, status=False))
        if step is None:
            before = max(line, key=lambda row: int(row["version"]), default=None)
            self._new_spec(entry, place, before, _differing(value, before, status=False) if before else [])
        elif isinstance(step, succession.Impossible):
            self._dispute(entry, step.why)
        elif step.event is None:
            self._add("spec", False, place, place.domain, succession.named(step.row), step.row)
        else:
            row = {**step.row, "status": value.status}
            details = self._in_force_instead(value, place, row if step.event == "activated" else None)
            self._specs = [row if each is step.row else each for each in self._specs]
            self._add("spec", True, place, place.domain, succession.named(row), row, details, step.event)

    def _in_force_instead(self, value: shapes.Spec, place: _Place, row: Row | None) -> list[str]:
        """Take what is in force for an intent at a stage out of it, for `row`; in words."""
        before = next((each for each in self._specs if place.owns(each) and _governs(each, value)), None)
        if before is None:
            return []
        self._specs = [{**each, "status": "deprecated"} if each is before else each for each in self._specs]
        if row is None:
            return [f"nothing governs {value.intent} at {value.stage} any more: decisions are refused"]
        said = [f"supersedes {before['spec_id']} version {before['version']}"]
        if before["spec_id"] != row["spec_id"]:
            return [*said, f"policies of {before['spec_id']} no longer apply"]
        self._succeeded.append((before, row))
        return said

    def _dispute(self, entry: Located[shapes.Spec], why: str) -> None:
        self._disputed.add(entry.value.spec_id)
        self.conflicts.append(Defect(why, entry.path))

    def _new_spec(
        self, entry: Located[shapes.Spec], place: _Place, before: Row | None, differing: list[str]
    ) -> None:
        value = entry.value
        taken = [
            row
            for row in self._specs
            if row["spec_id"] == value.spec_id
            and (not self._by_organization or row["organization_id"] == place.organization_id)
        ]
        newest = max((row["version"] for row in taken), default=0)
        version = value.version or newest + 1
        conflict = self._spec_conflict(value, place, taken, newest, differing)
        if conflict is not None:
            self._dispute(entry, conflict)
            return
        row = {
            "spec_id": value.spec_id,
            "version": version,
            **place.key,
            "intent": value.intent,
            "stage": value.stage,
            "status": value.status,
            "replaced_by": None,
            **checking.spec_content(value),
        }
        details = [f"{value.intent} at {value.stage}"]
        if value.status == "active":
            details += self._in_force_instead(value, place, row)
        self._specs.append(row)
        if before and differing:
            details.append(f"differs from version {before['version']} in {succession.listed(differing)}")
        self._add("spec", True, place, place.domain, succession.named(row), row, details)

    def _spec_conflict(
        self, value: shapes.Spec, place: _Place, taken: Sequence[Row], newest: int, differing: list[str]
    ) -> str | None:
        """Why a spec cannot be added, or None."""
        if any(row["organization_id"] != place.organization_id for row in taken):
            return f"spec id {value.spec_id} belongs to another organization: choose another"
        other = next((row for row in taken if row["domain"] != place.domain), None)
        if other is not None:
            return f"spec id {value.spec_id} belongs to domain {other['domain']}: choose another"
        if value.version is not None and value.version <= newest:
            return f"spec {value.spec_id} has version {newest} already: a new one comes after it"
        if value.status == "deprecated":
            return succession.cannot_retire(value)
        if value.status != "active" or self._by_organization:
            return None
        active = next((row for row in self._specs if place.owns(row) and _governs(row, value)), None)
        return None if active is None else succession.cannot_replace(active, value, newest + 1, differing)

    # Policies.

    def _policies(self, entry: DomainEntry, place: _Place) -> None:
        specs, unread = self._in_force(place, entry.unread_specs | self._disputed)
        before = self._snapshots.get((place.organization_id, place.domain))
        if entry.policies is None:
            if before is None and entry.declared and (specs or entry.specs):
                said = f"domain {place.domain} has specs and no policies yet, so that nothing can be decided"
                self.defects.append(Defect(f"{said}: add `policies:`, [] for none", entry.domain.path))
            if before is not None:
                self._standing(entry, place, before)
            return
        around = checking.Surroundings(
            place.domain,
            specs,
            {row["scope_id"] for row in self._scopes.values() if place.owns(row)},
            unread,
            entry.unread_scopes | self._disputed,
        )
        self.defects += checking.check_policies(entry.policies, around)
        new = [checking.policy_content(policy.value) for policy in entry.policies]
        old = [normal_policy(policy) for policy in before["policies"]] if before else []
        if before is not None and same(old, new):
            name = f"snapshot {before['version']}"
            self._add("policies", False, place, place.domain, name, before)
            return
        version = before["version"] + 1 if before else 1
        row = {
            "snapshot_id": self._new_id(f"snapshot {place.organization_id} {place.domain} {version}"),
            "version": version,
            **place.key,
            "policies": new,
        }
        details = list(_policy_diff(old, new))
        self._snapshots[place.organization_id, place.domain] = row
        self._add("policies", True, place, place.domain, f"snapshot {version}", row, details)

    def _standing(self, entry: DomainEntry, place: _Place, snapshot: Row) -> None:
        """A conflict for each policy of the snapshot that stays and does not fit a spec's successor."""
        for before, after in self._succeeded:
            spec = next((each for each in entry.specs if each.value.spec_id == after["spec_id"]), None)
            if spec is None or not place.owns(after):
                continue
            for said in checking.unfit(snapshot["policies"], before, after):
                self.conflicts.append(Defect(f"{said}; give `policies` that do with it", spec.path))

    def _in_force(
        self, place: _Place, unread: frozenset[str]
    ) -> tuple[dict[str, list[model.Spec]], frozenset[str]]:
        """Specs by id that policies have to fit, and the ids of those that nothing can be said of."""
        rows = [row for row in self._specs if place.owns(row) and row["spec_id"] not in unread]
        chosen = [row for row in rows if row["status"] == "active"]
        active = {row["spec_id"] for row in chosen}
        drafts = {row["spec_id"]: row for row in rows if row["status"] == "draft"}
        chosen += [row for spec_id, row in drafts.items() if spec_id not in active]
        found: dict[str, list[model.Spec]] = {}
        for row in chosen:
            try:
                found.setdefault(row["spec_id"], []).append(model.parse_spec(row))
            except model.InvalidModel:
                unread |= {row["spec_id"]}
        return found, unread

    def _add(
        self,
        kind: Kind,
        created: bool,
        whose: Row | _Place,
        domain: str | None,
        name: str,
        row: Row,
        details: Sequence[str] = (),
        event: succession.Event | None = None,
    ) -> None:
        organization = whose.organization if isinstance(whose, _Place) else whose["name"]
        self.changes.append(Change(kind, created, organization, domain, name, row, tuple(details), event))


def _governs(row: Row, value: shapes.Spec) -> bool:
    given = (row["status"], row["intent"], row["stage"])
    return given == ("active", value.intent, value.stage)


def _differing(value: shapes.Spec, row: Row, *, status: bool = True) -> list[str]:
    """Which parts of a stored spec are not what is declared."""
    new, old = normal_spec(checking.spec_content(value)), normal_spec(row)
    found = [name for name in new if not same(new[name], old[name])]
    return [*found, *(["status"] if status and value.status != row["status"] else [])]


def _policy_diff(old: Sequence[Any], new: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """`+ id`, `- id`, `~ id` and its fields, in the order of the new snapshot; then what is gone."""
    before = {str(policy.get("id")): policy for policy in old if isinstance(policy, Mapping)}
    for policy in new:
        known = before.get(policy["id"])
        if known is None:
            yield f"+ {policy['id']}"
        elif not same(known, policy):
            yield f"~ {policy['id']}"
            yield from _fields_diff(known, policy)
    names = [policy["id"] for policy in new]
    yield from (f"- {name}" for name in before if name not in names)
    kept = [name for name in before if name in names]
    if kept != [name for name in names if name in before]:
        yield "the order differs"
    if not new and not old:
        yield "no policies"


def _fields_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if not same(old.get(name), new.get(name)):
            yield f"    {name}: {_shown(old.get(name))} -> {_shown(new.get(name))}"[:300]


def _shown(value: Any) -> str:
    """A field of a policy for people; conditions as they read."""
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) or "none"
    if isinstance(value, Mapping):
        expected = json.dumps(value.get("value"), ensure_ascii=False)
        return f"{value.get('field')} {value.get('operator')} {expected}"
    return "none" if value is None else str(value)
