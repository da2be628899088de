"""Constraint tests of version 9: nothing points into another organization, and specs follow their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mandate.postgres.connection import Session
from mandate.runbook.probes import Expect, Probe, statement

_DECISION = (
    "INSERT INTO decision_events (decision_id, intent, stage, actor, target, context, scope, timestamp,"
    " organization_id, domain) VALUES ({other}, 'probe', 'proposed', 'probe', 'probe', '{{}}', '{{}}', now(),"
    " {organization}, {domain})"
)
_SNAPSHOTS = (
    "INSERT INTO policy_snapshots (snapshot_id, version, policies, organization_id, domain)"
    " VALUES ({other}, 1, '[]', {other}, {domain}), (gen_random_uuid(), 1, '[]', {organization}, {domain})"
)
# On the decision of the first organization, with a snapshot of its own.
_VERDICT = (
    "INSERT INTO verdict_events (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids,"
    " timestamp, organization_id, domain) SELECT gen_random_uuid(), {other}, snapshot_id, 'ALLOW', '{{}}',"
    " now(), organization_id, domain FROM policy_snapshots WHERE organization_id = "
)
_ENTRY = (
    "INSERT INTO audit_timeline_entries (entry_id, decision_id, intent, stage, actor, target, summary,"
    " details, severity, event_source, authority_level, timestamp, organization_id, domain)"
    " VALUES ({other}, {other}, 'probe', 'proposed', 'probe', 'probe', 'probe', '{{}}', 'info', 'system',"
    " 'system', now(), {other}, {domain})"
)
_SCOPE = (
    "INSERT INTO scopes (scope_id, domain, organization_id, owning_team)"
    " VALUES ({scope}, {domain}, {other}, 'Team')"
)
_SPEC_EVENT = (
    "INSERT INTO spec_events (organization_id, domain, intent, stage, event, spec_id, version)"
    " VALUES ({organization}, {domain}, 'probe', 'proposed', 'retired', 'no-such-spec', 1)"
)


def tenant(session: Session, names: Mapping[str, Any]) -> Iterator[Probe]:
    """The probes; while there is a way back to version 8, what version 8 would refuse is refused still."""
    yield from _organization(names)
    window = session.value("SELECT to_regclass('mandate.scopes_version_8_key') IS NOT NULL")
    yield statement(
        "a scope_id of another organization is refused, as version 8 would"
        if window
        else "a scope_id of another organization is free",
        _SCOPE,
        names,
        Expect(("23505",), constraint="scopes_version_8_key") if window else Expect(),
    )
    yield from _across(names)
    yield statement(
        "retiring a spec that was never activated is refused",
        _SPEC_EVENT,
        names,
        Expect(("23514",), constraint="validate_spec_events"),
    )


def _organization(names: Mapping[str, Any]) -> Iterator[Probe]:
    yield statement(
        "another organization",
        "INSERT INTO organizations (organization_id, name) VALUES ({other}, {other_name})",
        names,
        Expect(),
        keep=True,
    )
    yield statement(
        "a domain of the same name in another organization is accepted",
        "INSERT INTO domains (organization_id, domain) VALUES ({other}, {domain})",
        names,
        Expect(),
        keep=True,
    )


def _across(names: Mapping[str, Any]) -> Iterator[Probe]:
    yield statement("a decision gets its time of receipt by itself", _DECISION, names, Expect(), keep=True)
    yield statement("a policy snapshot of each organization", _SNAPSHOTS, names, Expect(), keep=True)
    own = f"{_VERDICT}{{organization}} AND domain = {{domain}}"
    yield statement("a verdict on the organization's own decision is accepted", own, names, Expect())
    yield statement(
        "a verdict on another organization's decision is refused",
        f"{_VERDICT}{{other}} AND domain = {{domain}}",
        names,
        Expect(("23503",), constraint="verdict_events_organization_domain_decision_fkey"),
    )
    yield statement(
        "a timeline entry of another organization's decision is refused",
        _ENTRY,
        names,
        Expect(("23503",), constraint="audit_timeline_entries_organization_domain_decision_fkey"),
    )
