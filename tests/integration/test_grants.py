"""The roles of `mandate db grant`, and row level security behind the filters of the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import pytest
from psycopg import sql
from tests.access import OTHERS, add_others, as_runtime, grant, make_token, runtime_login
from tests.commands import mandate
from tests.conftest import MIGRATIONS
from tests.posting import ORGANIZATION, decision, post, verdict_of
from tests.servers import DatabaseFactory, Databases
from tests.serving import Service, migrate_with_psql, serving

from mandate.controlplane.access import about, grants
from mandate.controlplane.access.principal import HeldDomain, Principal, Role
from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.embedded import EmbeddedServer

TABLES = (
    *("organizations", "domains", "scopes", "mandate_specs", "policy_snapshots"),
    *("decision_events", "verdict_events", "audit_timeline_entries"),
)
FINANCE = Principal("0" * 12, Role.AUDITOR, ORGANIZATION, (HeldDomain("finance", None),))


@pytest.fixture(scope="module")
def runtime(postgres: EmbeddedServer) -> Iterator[str]:
    """A login that is a member of mandate_runtime."""
    with runtime_login(postgres) as name:
        yield name


def acls(target: Target) -> list[dict[str, object]]:
    with connect(target) as session:
        return session.rows(
            "SELECT relname, relacl::text, relrowsecurity FROM pg_class"
            " WHERE relnamespace = 'mandate'::regnamespace AND relkind = 'r' ORDER BY relname"
        )


@pytest.mark.parametrize("kind", ["v7", "v8"])
def test_the_service_needs_no_more_than_the_runtime_role_has(
    database: DatabaseFactory, runtime: str, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    target = database(kind)
    grant(target)
    before = acls(target)
    grant(target)
    assert acls(target) == before
    login = as_runtime(target, runtime)
    with serving(login, tmp_path_factory.mktemp("logs")) as service:
        verdict_of(post(service, decision()))
        verdict_of(post(service, decision(organization_id=None)))
        token = make_token(target, Role.AUDITOR)
        headers = {"Authorization": f"Bearer {token}"}
        for path in ("decisions", "verdicts", "domains", "scopes", "specs", "policy-snapshots"):
            answer = service.get(f"/api/{path}", headers=headers)
            assert answer.status in (200, 401), (path, answer.body)
        if kind == "v7":
            migrate_with_psql(target)
            assert service.get("/api/scopes", headers=headers).status == 200
    with connect(login) as session:
        for table in TABLES:
            for statement in ("DELETE FROM", "TRUNCATE"):
                with pytest.raises(DatabaseError, match="permission denied"):
                    session.execute(f"{statement} mandate.{table}".encode())
            with pytest.raises(DatabaseError, match="permission denied"):
                session.execute(f"UPDATE mandate.{table} SET organization_id = NULL".encode())
        for statement in (
            "CREATE TABLE mandate.mine (a int)",
            "DROP TABLE mandate.scopes",
            "ALTER TABLE mandate.scopes DISABLE TRIGGER USER",
            "INSERT INTO mandate.migration_log (migration_version) VALUES (9)",
            "INSERT INTO mandate.identity_map SELECT * FROM mandate.identity_map",
            "INSERT INTO mandate_access.tokens SELECT * FROM mandate_access.tokens",
            "INSERT INTO mandate_access.revocations SELECT * FROM mandate_access.revocations",
            "DELETE FROM mandate_access.revocations",
        ):
            with pytest.raises(DatabaseError, match=r"permission denied|must be owner"):
                session.execute(statement.encode())


def test_the_migrator_may_do_what_the_owner_may_unless_that_is_everything(database: DatabaseFactory) -> None:
    target = database("v7")
    assert grant(target)["migrator"] is False
    owner = f"owner_{uuid4().hex[:8]}"
    with connect(target) as session:
        session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(owner)))
        session.execute(sql.SQL("ALTER SCHEMA mandate OWNER TO {}").format(sql.Identifier(owner)))
    try:
        assert grant(target)["migrator"] is True
    finally:
        with connect(target) as session:
            session.execute("ALTER SCHEMA mandate OWNER TO CURRENT_USER")
            session.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(owner)))


def test_a_role_that_is_more_than_it_should_be_is_refused(database: DatabaseFactory) -> None:
    target = database("v8")
    grant(target)
    with connect(target) as session, session.transaction():
        session.execute("ALTER ROLE mandate_runtime CREATEROLE")
        with pytest.raises(DatabaseError, match="attributes of an administrator"):
            grants.grant(session)
        session.execute("ALTER ROLE mandate_runtime NOCREATEROLE")


def test_version_7_is_left_without_policies(database: DatabaseFactory) -> None:
    target = database("v7")
    refused = mandate("db", "grant", "--row-security", "--dsn", target.conninfo, "--format", "json")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["error"]["code"] == "row-security-not-ready"


@pytest.fixture(scope="module")
def walled(
    postgres: EmbeddedServer, runtime: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Target, Target, Service]]:
    """A database with row level security, as owner and as the runtime role, and a service of before."""
    databases = Databases(postgres, MIGRATIONS)
    target = databases.create("v7")
    add_others(target)
    migrate_with_psql(target)
    grant(target)
    login = as_runtime(target, runtime)
    with serving(login, tmp_path_factory.mktemp("logs")) as service:
        for organization in (ORGANIZATION, OTHERS):
            verdict_of(post(service, decision(organization_id=organization)))
        verdict_of(post(service, decision(domain="logistics", intent=None)))
        assert grant(target, "--row-security")["row_security"] is True
        yield target, login, service
    databases.drop(target.database)


def test_a_statement_that_forgets_the_filter_gets_nothing(walled: tuple[Target, Target, Service]) -> None:
    target, login, _ = walled
    with connect(target) as owner, connect(login) as session:
        for table in TABLES:
            count = f"SELECT count(*) FROM mandate.{table}".encode()
            assert owner.value(count) > 0
            assert session.value(count) == 0, table
            with session.transaction():
                _say(session, about.principal(FINANCE, ("finance",)))
                seen = session.rows(f"SELECT * FROM mandate.{table}".encode())
                assert seen, table
                assert {str(row["organization_id"]) for row in seen} == {ORGANIZATION}
                assert {row.get("domain", "finance") for row in seen} == {"finance"}
            assert session.value(count) == 0, f"{table}: what was said outlived its transaction"


@pytest.mark.parametrize("organization", ["", "no-uuid", "{}", ORGANIZATION + ",", "**"])
def test_what_cannot_be_meant_shows_nothing(
    walled: tuple[Target, Target, Service], organization: str
) -> None:
    _, login, _ = walled
    with connect(login) as session, suppress(DatabaseError), session.transaction():
        _say(session, {"mandate.organization_id": organization, "mandate.domains": "*"})
        assert session.value("SELECT count(*) FROM mandate.decision_events") == 0


@pytest.mark.parametrize(
    ("organization", "domain"), [(OTHERS, "finance-2"), (ORGANIZATION, "logistics-2"), (OTHERS, "finance")]
)
def test_nothing_is_written_into_what_was_not_said(
    walled: tuple[Target, Target, Service], organization: str, domain: str
) -> None:
    _, login, _ = walled
    insert = "INSERT INTO mandate.domains (organization_id, domain) VALUES (%s, %s)"
    with connect(login, autocommit=False) as session:
        _say(session, about.principal(FINANCE, ("finance",)))
        with pytest.raises(DatabaseError, match="row-level security"):
            session.execute(insert, (organization, domain))


def test_the_service_goes_on_as_before(walled: tuple[Target, Target, Service]) -> None:
    target, _, service = walled
    body = decision()
    for organization in (ORGANIZATION, OTHERS):
        verdict_of(post(service, {**body, "decision_id": str(uuid4()), "organization_id": organization}))
    assert [post(service, body).status for _ in range(2)] == [201, 200]
    verdict_of(post(service, decision(organization_id=None)))
    lines = b"\n".join(json.dumps(decision(organization_id=o)).encode() for o in (ORGANIZATION, OTHERS) * 3)
    answer = post(service, lines, "/api/decisions:batch", {"Content-Type": "application/x-ndjson"})
    assert [json.loads(line)["status"] for line in answer.body.splitlines()] == [201] * 6
    said = post(service, {"outcome": "done"}, f"/api/decisions/{body['decision_id']}/outcome")
    assert said.status == 201
    new = {"organization_id": ORGANIZATION, "domain": f"new-{uuid4().hex[:6]}"}
    assert post(service, new, "/api/domains").status == 201
    with connect(target) as session:
        recorded = session.value("SELECT count(*) FROM mandate.decision_events")
    assert len(service.rows("/api/decisions?limit=500")) == recorded
    assert len(service.rows(f"/api/decisions/{body['decision_id']}/timeline")) == 3


def _say(session: Session, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        session.execute("SELECT set_config(%s, %s, true)", (name, value))
