"""Two organizations in one database, tokens for them, and bodies that belong to the wrong one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from psycopg import sql
from tests.commands import mandate
from tests.posting import ORGANIZATION, decision, post, verdict_of
from tests.serving import Answer, Service, eventually

from mandate.controlplane.access import ledger
from mandate.controlplane.access.principal import Role
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer

OTHERS = "00000000-0000-0000-0000-0000000000aa"
# The same name as a domain of ORGANIZATION: only the organization tells them apart.
OTHERS_DOMAIN = "finance"
OTHERS_UUID = "da000001-0000-4000-8000-000000000001"
OTHERS_SCOPE = "5a000001-0000-4000-8000-000000000001"
OTHERS_SNAPSHOT = "a5000001-0000-4000-8000-000000000001"
OTHERS_SPEC = "others.refund"
LOGISTICS_UUID = "d0000002-0000-4000-8000-000000000002"

# On version 7, where 008 carries all of it over.
_OTHERS = f"""
INSERT INTO mandate.organizations (organization_id, name) VALUES ('{OTHERS}', 'Others');
INSERT INTO mandate.domains (domain_id, organization_id, name) VALUES
    ('{OTHERS_UUID}', '{OTHERS}', '{OTHERS_DOMAIN}'),
    ('da000002-0000-4000-8000-000000000002', '{OTHERS}', 'others-only');
INSERT INTO mandate.scopes (scope_id, organization_id, domain_id, service, environment)
    VALUES ('{OTHERS_SCOPE}', '{OTHERS}', '{OTHERS_UUID}', 'others', 'prod');
INSERT INTO mandate.mandate_specs
    (spec_id, version, organization_id, domain, intent, stage, allowed_verdicts, signals, enforcement, status)
SELECT replace(spec_id, 'finance.', 'others.'), version, '{OTHERS}', domain, intent, stage, allowed_verdicts,
    signals, enforcement, status
FROM mandate.mandate_specs WHERE spec_id = 'finance.refund';
INSERT INTO mandate.policy_snapshots (snapshot_id, version, organization_id, domain_id, policies)
    VALUES ('{OTHERS_SNAPSHOT}', 1, '{OTHERS}', '{OTHERS_UUID}', '[]');
"""


def add_others(target: Target) -> None:
    """A second organization in a version 7 database, with a domain of the same name as the first one's."""
    with connect(target) as session:
        session.execute(_OTHERS.encode())


@contextmanager
def runtime_login(server: EmbeddedServer) -> Iterator[str]:
    """A role that may log in, to be made a member of mandate_runtime in a database that has the grants."""
    name = f"service_{uuid4().hex[:8]}"
    with connect(server.target()) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'service'").format(sql.Identifier(name)))
    yield name
    with connect(server.target()) as session:
        session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def as_runtime(target: Target, name: str) -> Target:
    """The database as that role."""
    with connect(target) as session:
        session.execute(sql.SQL("GRANT mandate_runtime TO {}").format(sql.Identifier(name)))
    return Target({**target.parameters, "user": name, "password": "service"}, "test")


def grant(target: Target, *arguments: str) -> dict[str, object]:
    """What `mandate db grant` prints as JSON."""
    done = mandate("db", "grant", "--dsn", target.conninfo, "--format", "json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


@dataclass(frozen=True)
class World:
    """A service with tokens. `mine` and `theirs` are decisions of finance in each organization; `next_door`
    is one of another domain of the first organization. `tokens` by role and by what is wrong with them."""

    service: Service
    target: Target
    mine: str
    theirs: str
    next_door: str
    tokens: Mapping[str, str]
    version: int

    def call(self, method: str, path: str, token: str | None, body: Any = None, **headers: str) -> Answer:
        """One request, with a token by its name in `tokens`."""
        given = dict(headers)
        if token is not None:
            given["Authorization"] = f"Bearer {self.tokens[token]}"
        if method in ("GET", "HEAD"):
            return self.service.get(path, method=method, headers=given)
        return post(self.service, body, path, given)


def make_token(target: Target, role: Role, *domains: str, organization: str = ORGANIZATION) -> str:
    """The text of a new token."""
    with connect(target) as session:
        return ledger.create(session, role, organization, domains).token


def populate(service: Service, target: Target, version: int) -> World:
    """Decisions of both organizations, posted while there are no tokens; then tokens of every kind."""
    mine, theirs, next_door = (str(uuid4()) for _ in range(3))
    verdict_of(post(service, decision(decision_id=mine)))
    verdict_of(post(service, decision(decision_id=theirs, organization_id=OTHERS)))
    verdict_of(post(service, decision(decision_id=next_door, domain="logistics", intent=None)))
    tokens = {role.value: make_token(target, role, "finance") for role in Role}
    tokens |= {f"whole {role}": make_token(target, role) for role in Role}
    tokens["others"] = make_token(target, Role.AUDITOR, organization="Others")
    tokens["expired"], tokens["revoked"] = (make_token(target, Role.OPERATOR) for _ in range(2))
    _expire(target, tokens["expired"])
    with connect(target) as session:
        assert ledger.revoke(session, tokens["revoked"].split("_")[1])
    tokens["wrong secret"] = tokens["operator"][:-2] + ("aa" if tokens["operator"][-2] != "a" else "bb")
    tokens["unknown"] = "mdt_000000000000_" + "a" * 52
    tokens["malformed"] = "mdt_" + "x" * 20
    tokens["huge"] = "mdt_" + "a" * 8000
    tokens["empty"] = ""
    eventually(lambda: service.get("/api/domains").status == 401)
    return World(service, target, mine, theirs, next_door, tokens, version)


def _expire(target: Target, token: str) -> None:
    """Let a token be past its time: only the owner of the database can, by going around the trigger."""
    with connect(target) as session:
        session.execute("ALTER TABLE mandate_access.tokens DISABLE TRIGGER USER")
        session.execute(
            "UPDATE mandate_access.tokens SET expires_at = created_at WHERE token_id = %s",
            (token.split("_")[1],),
        )
        session.execute("ALTER TABLE mandate_access.tokens ENABLE TRIGGER USER")


def outside(method: str, path: str, organization: str, domain: str) -> Any:
    """A body for an operation that says whose it is. KeyError for an operation that nobody thought of."""
    where = {"organization_id": organization, "domain": domain}
    bodies: Mapping[tuple[str, str], Any] = {
        ("POST", "/decisions"): decision(**where),
        ("POST", "/decisions/{decision_id}/outcome"): {"outcome": "done"},
        ("POST", "/domains"): where,
        ("POST", "/scopes"): {**where, "scope_id": f"{domain}.new"},
        ("POST", "/specs"): {
            **where,
            "spec_id": f"{domain}.new",
            "intent": "new",
            "stage": "pre_commit",
            "allowed_verdicts": ["ALLOW", "BLOCK"],
            "signals": [],
        },
        ("POST", "/policy-snapshots"): {**where, "policies": []},
        ("POST", "/organizations"): {"name": f"New {uuid4()}"},
    }
    return bodies[(method, path)]
