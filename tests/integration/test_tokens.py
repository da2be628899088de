"""Tokens from the command line, what the service makes of them, and when it starts where."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from tests.access import LOGISTICS_UUID, add_others, make_token
from tests.commands import mandate
from tests.posting import ORGANIZATION, decision, post
from tests.servers import DatabaseFactory
from tests.serving import Service, eventually, migrate_with_psql, serving

from mandate.controlplane.access import ledger, tokens
from mandate.controlplane.access.authority import TRUST_SECONDS
from mandate.controlplane.access.principal import Role
from mandate.errors import DatabaseError, UsageError
from mandate.postgres.connection import Target, connect


def token(target: Target, *arguments: str) -> subprocess.CompletedProcess[str]:
    return mandate("token", *arguments, "--dsn", target.conninfo)


def asked(service: Service, text: str, path: str = "/api/domains") -> int:
    return service.get(path, headers={"Authorization": f"Bearer {text}"}).status


def test_a_token_is_shown_once_and_only_its_hash_is_kept(database: DatabaseFactory) -> None:
    target = database("v8")
    made = token(
        target,
        *("create", "--role", "agent", "--organization", "Example", "--domain", "finance"),
        *("--expires", "2h", "--description", "the refund agent"),
    )
    assert made.returncode == 0, made.stderr
    text = made.stdout.splitlines()[0]
    token_id = tokens.token_id(text)
    assert token_id is not None
    assert text not in made.stderr
    assert "It is the first" in made.stdout
    assert re.search(r"^  organization  Example$", made.stdout, re.MULTILINE)
    assert re.search(r"^  expires       \d{4}-\d\d-\d\d \d\d:\d\d UTC$", made.stdout, re.MULTILINE)
    listed = json.loads(token(target, "list", "--format", "json").stdout)["tokens"]
    assert [(row["token_id"], row["status"], row["domains"]) for row in listed] == [
        (token_id, "valid", ["finance"])
    ]
    secret = text.rpartition("_")[2]
    assert secret not in json.dumps(listed)
    with connect(target) as session:
        kept = str(
            session.rows("SELECT *, encode(digest, 'escape') AS digest_text FROM mandate_access.tokens")
        )
    assert secret not in kept
    assert token(target, "revoke", token_id, "--reason", "lost").returncode == 0
    again = json.loads(token(target, "revoke", token_id, "--format", "json").stdout)
    assert again["revoked_now"] is False
    shown = token(target, "list").stdout.splitlines()
    assert re.fullmatch(rf"{token_id}  agent     revoked \d{{4}}-\d\d-\d\d \d\d:\d\d UTC: lost", shown[1])
    assert [line.strip() for line in shown[2:]] == ["Example: finance", "the refund agent"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--organization", "Nobody"], "no organization"),
        (["--organization", "Example", "--domain", "nowhere"], "no domain 'nowhere'"),
        (["--organization", "Example", "--expires", "99999999d"], "not a time span"),
        (["--organization", "Example", "--description", "x" * 1001], "at most"),
    ],
)
def test_what_cannot_be_meant_makes_no_token(
    database: DatabaseFactory, arguments: list[str], says: str
) -> None:
    target = database("v8")
    refused = token(target, "create", "--role", "agent", *arguments, "--format", "json")
    assert refused.returncode == 2
    assert says in json.loads(refused.stdout)["error"]["message"]
    with connect(target) as session:
        assert not session.value("SELECT to_regnamespace('mandate_access') IS NOT NULL")


def test_a_domain_of_others_and_a_token_for_an_id_are_refused(database: DatabaseFactory) -> None:
    target = database("v7")
    add_others(target)
    with connect(target) as session:
        with pytest.raises(UsageError, match="no domain 'others-only'"):
            ledger.create(session, Role.AGENT, ORGANIZATION, ["others-only"])
        made = ledger.create(session, Role.AGENT, ORGANIZATION, [LOGISTICS_UUID])
        assert made.domains == ("logistics",)
        for unknown in ("0" * 12, made.token_id[:-1] + "'"):
            with pytest.raises(UsageError, match="no token"):
                ledger.revoke(session, unknown)
    assert token(target, "revoke", made.token).returncode == 2
    assert token(target, "revoke", "000000000000").returncode == 2


@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET token_id = token_id", "DELETE FROM {}", "TRUNCATE {} CASCADE"]
)
def test_tokens_and_revocations_are_only_appended(database: DatabaseFactory, statement: str) -> None:
    target = database("v8")
    made = make_token(target, Role.AGENT)
    with connect(target) as session:
        ledger.revoke(session, made.split("_")[1])
        for table in ("mandate_access.tokens", "mandate_access.revocations"):
            with pytest.raises(DatabaseError, match="append-only"):
                session.execute(statement.format(table).encode())


def test_the_first_two_tokens_may_be_made_at_the_same_time(database: DatabaseFactory) -> None:
    target = database("v8")
    with connect(target) as one, connect(target) as other, one.transaction():
        first = ledger.create(one, Role.AGENT, ORGANIZATION)
        assert not ledger.exist(other)
    with connect(target) as session:
        second = ledger.create(session, Role.AGENT, ORGANIZATION)
        assert {row["token_id"] for row in ledger.listed(session)} == {first.token_id, second.token_id}


def test_a_revoked_token_is_refused_within_the_bound(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    text, other = make_token(target, Role.AUDITOR), make_token(target, Role.AUDITOR)
    with serving(target, tmp_path) as service:
        assert asked(service, text) == asked(service, other) == 200
        with connect(target) as session:
            ledger.revoke(session, text.split("_")[1])
        revoked = time.monotonic()
        while time.monotonic() - revoked < TRUST_SECONDS:
            begun = time.monotonic()
            status = asked(service, text)
            assert status == 401 or begun - revoked < TRUST_SECONDS
        assert asked(service, text) == 401
        assert asked(service, other) == 200


def test_nobody_is_let_in_while_nobody_can_be_asked(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    text = make_token(target, Role.AUDITOR)
    with serving(target, tmp_path) as service:
        assert asked(service, text) == 200
        with connect(target.with_database("postgres")) as session:
            name = f'"{target.database}"'
            session.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (target.database,),
            )
            try:
                assert eventually(lambda: asked(service, text) == 503)
                assert service.get("/api/domains").status == 401
                assert service.get("/healthz").status == 200
            finally:
                session.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        assert eventually(lambda: asked(service, text) == 200)


def test_a_closed_service_does_not_open_when_its_tokens_are_gone(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v8")
    text = make_token(target, Role.AUDITOR)
    with serving(target, tmp_path) as service:
        assert asked(service, text) == 200
        with connect(target) as session:
            session.execute("DROP SCHEMA mandate_access CASCADE")
        assert eventually(lambda: asked(service, text) == 401)
        assert service.get("/api/domains").status == 401


def test_a_token_goes_with_its_domain_through_the_migration(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    """And two domains of others that trade their names meanwhile do not become its own."""
    target = database("v7")
    text = make_token(target, Role.AGENT, "finance")
    headers = {"Authorization": f"Bearer {text}"}
    with serving(target, tmp_path) as service:
        before = decision()
        assert post(service, before, headers=headers).status == 201
        migrate_with_psql(target)
        assert post(service, decision(), headers=headers).status == 201
        assert asked(service, text, f"/api/decisions/{before['decision_id']}") == 200
        assert post(service, decision(domain="logistics"), headers=headers).status == 403


def address() -> str:
    """An address of this machine that is not loopback, without asking anybody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "0.0.0.0"
        return str(probe.getsockname()[0])


def test_others_are_served_only_where_tokens_are(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    arguments = ("serve", "--host", address(), "--port", "0", "--dsn", target.conninfo, "--log-dir", tmp_path)
    refused = mandate(*arguments, "--format", "json")
    assert refused.returncode == 2
    assert "loopback only" in json.loads(refused.stdout)["error"]["message"]
    text = make_token(target, Role.AUDITOR)
    with serving(target, tmp_path, "--host", "0.0.0.0") as service:
        assert service.get("/api/domains").status == 401
        assert asked(service, text) == 200
        warned = [line for line in service.log() if line["event"] == "more rights than needed"]
        assert warned[0]["connected_as"] == "a superuser"


def test_without_a_database_nobody_else_is_served(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    make_token(target, Role.AUDITOR)
    nowhere = Target({**target.parameters, "port": "1"}, "test")
    refused = mandate("serve", "--host", "0.0.0.0", "--dsn", nowhere.conninfo, "--log-dir", tmp_path)
    assert refused.returncode == 2
    assert "cannot be asked" in refused.stderr


def test_the_smoke_tests_use_the_token_that_they_are_given(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8-seeded")
    with connect(target) as session:
        row = session.row(
            "SELECT organization_id::text AS id, domain FROM mandate.decision_events"
            " WHERE domain <> 'finance' LIMIT 1"
        )
        assert row is not None
    text = make_token(target, Role.AUDITOR, organization=row["id"])
    narrow = make_token(target, Role.AUDITOR, row["domain"], organization=row["id"])
    with serving(target, tmp_path) as service:
        # Its own log: the machine may have a service that complains in the usual place.
        environment = {
            "MANDATE_SMOKE__BASE_URL": f"http://127.0.0.1:{service.port}",
            "MANDATE_SERVE__LOG_DIR": str(tmp_path),
        }
        arguments = ("smoke", "--dsn", target.conninfo)
        assert mandate(*arguments, env=environment).returncode == 6
        done = mandate(*arguments, env={**environment, "MANDATE_SMOKE__TOKEN": text})
        less = mandate(*arguments, env={**environment, "MANDATE_SMOKE__TOKEN": narrow})
    assert done.returncode == 0, done.stdout + done.stderr
    assert text not in done.stdout + done.stderr
    # What lies outside of the token is not missed.
    assert less.returncode == 0, less.stdout + less.stderr
    assert f"each of domain {row['domain']}" in less.stdout
