"""GET domains, scopes, specs and policy snapshots: lists, filters, single ones, old keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from tests.conftest import MIGRATIONS
from tests.servers import Databases
from tests.serving import Service, migrate_with_psql, serving

from mandate.controlplane.seed import Parameters, load
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer

SCOPE = (
    *("scope_id", "organization_id", "domain", "environment", "service", "agent", "system", "tenant"),
    *("owning_team", "owner_contact", "description", "created_at"),
)
SPEC = (
    *("spec_id", "version", "organization_id", "domain", "intent", "stage", "allowed_verdicts", "signals"),
    *("enforcement", "status", "replaced_by", "created_at"),
)
SNAPSHOT = ("snapshot_id", "organization_id", "domain", "version", "policies", "created_at")


class Definitions:
    def __init__(self, service: Service, target: Target, version: int, old: dict[str, str]) -> None:
        self.service, self.target, self.version, self.old = service, target, version, old

    def query(self, query: str) -> list[dict[str, Any]]:
        with connect(self.target) as session:
            return session.rows(query.encode())


@pytest.fixture(scope="module", params=[7, 8], ids=lambda version: f"v{version}")
def definitions(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Definitions]:
    server: EmbeddedServer = request.getfixturevalue("postgres")
    databases = Databases(server, MIGRATIONS)
    target = databases.create("v7")
    load(target, Parameters(60, domains=8))
    with connect(target) as session:
        domains = session.rows(b"SELECT domain_id::text AS id, name FROM mandate.domains")
        scopes = session.rows(
            b"SELECT scope_id::text AS id, service FROM mandate.scopes WHERE service IS NOT NULL"
        )
    old = {row["id"]: row["name"] for row in domains} | {row["id"]: row["service"] for row in scopes}
    if request.param == 8:
        migrate_with_psql(target)
    with serving(target, tmp_path_factory.mktemp("log")) as service:
        yield Definitions(service, target, request.param, old)
        assert service.stop() == 0
        assert not re.findall("(?i).*(?:error|exception|fail).*", service.log_file.read_text())
    databases.drop(target.database)


@pytest.mark.parametrize(
    ("path", "table", "key", "fields"),
    [
        ("scopes", "scopes", "scope_id", SCOPE),
        ("specs", "mandate_specs", "spec_id", SPEC),
        ("policy-snapshots", "policy_snapshots", "snapshot_id", SNAPSHOT),
    ],
)
def test_a_list_is_complete_whatever_the_page(
    definitions: Definitions, path: str, table: str, key: str, fields: tuple[str, ...]
) -> None:
    name = path.replace("-", "_")
    rows = _rows(definitions, path, name, 500)
    expected = definitions.query(f"SELECT {key}::text AS key FROM mandate.{table}")
    assert sorted(row[key] for row in rows) == sorted(row["key"] for row in expected)
    assert len(rows) > 7
    assert all(tuple(row) == fields for row in rows)
    assert _rows(definitions, path, name, 3) == rows


def _rows(definitions: Definitions, path: str, name: str, limit: int, more: str = "") -> list[Any]:
    rows: list[Any] = []
    cursor = ""
    while True:
        answer = definitions.service.get(f"/api/{path}?limit={limit}{more}{cursor}")
        assert answer.status == 200, answer.body
        rows += answer.json[name]
        if answer.json["next_cursor"] is None:
            return rows
        cursor = f"&cursor={answer.json['next_cursor']}"


@pytest.mark.parametrize("path", ["scopes", "specs", "policy-snapshots"])
def test_filters(definitions: Definitions, path: str) -> None:
    name = path.replace("-", "_")
    rows = _rows(definitions, path, name, 500)
    fields = {
        "scopes": ("organization_id", "domain", "environment", "service", "agent", "system", "tenant"),
        "specs": ("organization_id", "domain", "intent", "stage", "status"),
        "policy-snapshots": ("organization_id", "domain"),
    }[path]
    for field in fields:
        for value in {row[field] for row in rows if row[field] is not None}:
            found = _rows(definitions, path, name, 2, f"&{field}={quote(value)}")
            assert found == [row for row in rows if row[field] == value]
    assert _rows(definitions, path, name, 5, "&domain=no-such") == []
    assert definitions.service.get(f"/api/{path}?nope=1").problem == "unknown-parameter"
    assert definitions.service.get(f"/api/{path}?cursor=nope").problem == "malformed-parameter"


def test_one_of_each(definitions: Definitions) -> None:
    get = definitions.service.get
    for scope in _rows(definitions, "scopes", "scopes", 500)[:5]:
        assert get(f"/api/scopes/{quote(scope['scope_id'], safe='')}").json == scope
    for snapshot in _rows(definitions, "policy-snapshots", "policy_snapshots", 500)[:5]:
        assert get(f"/api/policy-snapshots/{snapshot['snapshot_id']}").json == snapshot
    specs = _rows(definitions, "specs", "specs", 500)
    for spec in specs[:20]:
        where = f"/api/v1/specs/{quote(spec['spec_id'], safe='')}"
        assert get(f"{where}?version={spec['version']}").json == spec
        newest = max(row["version"] for row in specs if row["spec_id"] == spec["spec_id"])
        assert get(where).json["version"] == newest
    for missing in ("scopes/nope", "specs/nope", "domains/nope", "specs/nope?version=1"):
        assert get(f"/api/{missing}").status == 404
    assert (
        get("/api/policy-snapshots/00000000-0000-0000-0000-00000000dead").problem == "no-such-policy-snapshot"
    )
    assert get("/api/policy-snapshots/nope").problem == "malformed-parameter"
    assert get("/api/specs/nope?version=0").problem == "malformed-parameter"


def test_a_domain_of_two_organizations_needs_to_be_told_which(definitions: Definitions) -> None:
    rows = definitions.service.get("/api/domains?limit=500").json["domains"]
    names = [row["domain"] for row in rows]
    shared = next(name for name in names if names.count(name) > 1)
    assert definitions.service.get(f"/api/domains/{shared}").problem == "ambiguous"
    row = next(row for row in rows if row["domain"] == shared)
    answer = definitions.service.get(f"/api/domains/{shared}?organization_id={row['organization_id']}")
    assert answer.json == row


def test_old_keys_lead_to_what_they_once_named(definitions: Definitions) -> None:
    for key, name in definitions.old.items():
        domain = definitions.service.get(f"/api/domains/{key}")
        if domain.status == 200:
            assert domain.json["domain"] == name
        else:
            assert definitions.service.get(f"/api/scopes/{key}").json["service"] == name
