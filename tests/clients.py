"""Clients of a record that is migrated under them, each with a tally of what it wrote and what was refused.

A direct client speaks both versions as an application would: it tries the one that it saw last, and the
other one when the schema says no. Anything else that goes wrong counts as a failure.
"""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from uuid import uuid4

from tests.posting import ORGANIZATION, decision, post
from tests.serving import Service

from mandate.errors import DatabaseError, MandateError
from mandate.postgres.connection import Session, Target, connect

OTHER_SCHEMA = frozenset({"42703", "42P01", "42704", "22P02", "42804", "23502", "0A000"})

_DOMAIN = {
    7: "INSERT INTO mandate.domains (organization_id, name) VALUES (%(organization)s, %(domain)s)",
    8: "INSERT INTO mandate.domains (organization_id, domain) VALUES (%(organization)s, %(domain)s)",
}
_SCOPE = {
    7: "INSERT INTO mandate.scopes (organization_id, domain_id, service, owning_team) SELECT organization_id,"
    " domain_id, %(name)s, 'team' FROM mandate.domains WHERE name = %(domain)s"
    " AND organization_id = %(organization)s",
    8: "INSERT INTO mandate.scopes (scope_id, organization_id, domain, service, owning_team)"
    " VALUES (%(domain)s || '.' || %(name)s, %(organization)s, %(domain)s, %(name)s, 'team')",
}
_DECISION = {
    version: f"""
    WITH owner AS (
        SELECT organization_id, {key} FROM mandate.domains
        WHERE organization_id = %(organization)s AND {name} = %(domain)s
    ), decided AS (
        INSERT INTO mandate.decision_events
            (decision_id, organization_id, {key}, intent, stage, actor, target, timestamp)
        SELECT %(decision)s, organization_id, {key}, 'issue_refund', 'pre_commit', 'agent', 'order', now()
        FROM owner RETURNING decision_id, organization_id, {key}, timestamp
    ), judged AS (
        INSERT INTO mandate.verdict_events
            (verdict_id, decision_id, snapshot_id, organization_id, {key}, verdict, timestamp)
        SELECT gen_random_uuid(), d.decision_id, s.snapshot_id, d.organization_id, d.{key}, 'ALLOW',
            d.timestamp
        FROM decided d, (SELECT snapshot_id FROM mandate.policy_snapshots LIMIT 1) s
    )
    INSERT INTO mandate.audit_timeline_entries (entry_id, decision_id, intent, stage, actor, target, summary,
        severity, event_source, authority_level, timestamp, organization_id, {key})
    SELECT gen_random_uuid(), decision_id, 'issue_refund', 'pre_commit', 'agent', 'order', 'direct',
        'info', 'agent', 'agent', timestamp, organization_id, {key}
    FROM decided
    """
    for version, key, name in ((7, "domain_id", "name"), (8, "domain", "domain"))
}


class Client(threading.Thread):
    """Works until it is told to stop. `decisions`: decision -> its domain's name, as committed."""

    def __init__(self, name: str, stopping: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = stopping
        self.asked = 0
        self.failures: list[str] = []
        self.decisions: dict[str, str] = {}
        self.domains: set[str] = set()
        self.scopes: set[tuple[str, str]] = set()

    def run(self) -> None:
        for number in itertools.count():
            if self.stopping.wait(0.05):
                return
            self.asked += 1
            try:
                self.step(number)
            except (OSError, http.client.HTTPException, MandateError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def step(self, number: int) -> None:
        """One request."""
        raise NotImplementedError


class Caller(Client):
    """Reads and posts over HTTP."""

    def __init__(self, name: str, stopping: threading.Event, service: Service) -> None:
        super().__init__(name, stopping)
        self.service = service

    def step(self, number: int) -> None:
        if number % 3 == 0:
            body = decision()
            answer = post(self.service, body)
            assert answer.status in (200, 201), f"POST: {answer.status} {answer.body[:300]!r}"
            self.decisions[body["decision_id"]] = body["domain"]
            return
        path = ("/api/decisions?domain=finance&limit=5", "/api/verdicts?limit=5")[number % 2]
        answer = self.service.get(path)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.body[:300]!r}"


class Writer(Client):
    """Writes straight into the database: decisions, and now and then a new domain or scope."""

    def __init__(self, name: str, stopping: threading.Event, target: Target) -> None:
        super().__init__(name, stopping)
        self.target = target
        self.version = 7
        self.session: Session | None = None

    def step(self, number: int) -> None:
        domain = "finance"
        if number % 10 == 0:
            domain = f"{self.name}-{number}"
            self._write(_DOMAIN, domain=domain)
            self.domains.add(domain)
        elif self.domains:
            domain = max(self.domains)
        if number % 10 == 5:
            self._write(_SCOPE, domain=domain, name=f"{self.name}-{number}")
            self.scopes.add((domain, f"{self.name}-{number}"))
        made = str(uuid4())
        self._write(_DECISION, domain=domain, decision=made)
        self.decisions[made] = domain

    def _write(self, statements: dict[int, str], **values: str) -> None:
        if self.session is None:
            self.session = connect(self.target, application_name=self.name)
        for attempt in range(3):
            try:
                written = self.session.execute(
                    statements[self.version], {"organization": ORGANIZATION, **values}
                )
                assert written == 1, f"{written} rows written: {values}"
            except DatabaseError as error:
                if error.sqlstate not in OTHER_SCHEMA or attempt == 2:
                    raise
                self.version = 15 - self.version
            else:
                return


@dataclass(frozen=True)
class Crowd:
    """All clients of a test."""

    clients: list[Client]

    def require_unharmed(self) -> None:
        """Everybody was served, every time."""
        failures = [f"{client.name}: {failure}" for client in self.clients for failure in client.failures]
        assert not failures, failures[:5]
        for client in self.clients:
            assert client.asked > 10, f"{client.name} asked {client.asked} times"

    @property
    def decisions(self) -> dict[str, str]:
        return {made: domain for client in self.clients for made, domain in list(client.decisions.items())}

    @property
    def domains(self) -> set[str]:
        return {name for client in self.clients for name in list(client.domains)}

    @property
    def scopes(self) -> set[tuple[str, str]]:
        return {scope for client in self.clients for scope in list(client.scopes)}


@contextmanager
def crowd(target: Target, service: Service, writers: int = 2, callers: int = 1) -> Iterator[Crowd]:
    """Clients at work until the block ends."""
    stopping = threading.Event()
    clients: list[Client] = [Caller(f"http-{number}", stopping, service) for number in range(1, callers + 1)]
    clients += [Writer(f"direct-{number}", stopping, target) for number in range(1, writers + 1)]
    with ExitStack() as stack:
        for client in clients:
            client.start()
        for client in clients:
            stack.callback(client.join, 60)
        stack.callback(stopping.set)
        yield Crowd(clients)


def held_by(target: Target) -> tuple[dict[str, str], set[str], set[tuple[str, str]]]:
    """What either version holds: decisions with their domains, domains, (domain, service) of scopes."""
    with connect(target) as session:
        old = session.value("SELECT to_regclass('mandate.identity_map') IS NULL")
        name, key = ("d.name", "domain_id") if old else ("d.domain", "domain")
        join = f"JOIN mandate.domains d ON d.{key} = t.{key} AND d.organization_id = t.organization_id"
        decisions = session.rows(
            f"SELECT t.decision_id::text AS id, {name} AS domain FROM mandate.decision_events t {join}"
            f" JOIN mandate.verdict_events v USING (decision_id)"
            f" JOIN mandate.audit_timeline_entries e USING (decision_id)"
            f" WHERE v.{key} = t.{key} AND e.{key} = t.{key}".encode()
        )
        domains = session.rows(f"SELECT {name} AS name FROM mandate.domains d".encode())
        scopes = session.rows(f"SELECT {name} AS domain, t.service FROM mandate.scopes t {join}".encode())
    return (
        {row["id"]: row["domain"] for row in decisions},
        {row["name"] for row in domains},
        {(row["domain"], row["service"]) for row in scopes},
    )
