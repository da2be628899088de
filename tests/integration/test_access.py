"""Every operation of the OpenAPI document with every wrong token, on each version of the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from tests.access import (
    LOGISTICS_UUID,
    OTHERS,
    OTHERS_DOMAIN,
    OTHERS_SCOPE,
    OTHERS_SNAPSHOT,
    OTHERS_SPEC,
    OTHERS_UUID,
    World,
    add_others,
    as_runtime,
    grant,
    outside,
    populate,
    runtime_login,
)
from tests.conftest import MIGRATIONS
from tests.posting import FINANCE_UUID, ORGANIZATION, counted, decision, post
from tests.servers import Databases
from tests.serving import Answer, migrate_with_psql, serving

from mandate.controlplane.access.principal import Role
from mandate.controlplane.api import access
from mandate.postgres.connection import connect
from mandate.postgres.embedded import EmbeddedServer

INVALID = ("revoked", "expired", "wrong secret", "unknown", "malformed", "huge", "empty")
WRITES = {"/decisions:batch"}


@pytest.fixture(scope="module", params=[7, 8, 9], ids=["v7", "v8", "v9-walled"])
def world(
    request: pytest.FixtureRequest, postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Version 9 behind the second wall: row level security, and a service that may read and append only."""
    databases = Databases(postgres, MIGRATIONS)
    target = databases.create("v7")
    add_others(target)
    if request.param >= 8:
        migrate_with_psql(target)
    with ExitStack() as stack:
        login = target
        if request.param == 9:
            migrate_with_psql(target, MIGRATIONS / "009_tenant_keys.sql")
            name = stack.enter_context(runtime_login(postgres))
            assert grant(target, "--row-security")["row_security"] is True
            login = as_runtime(target, name)
        with serving(login, tmp_path_factory.mktemp("logs")) as service:
            yield populate(service, target, request.param)
        databases.drop(target.database)


def operations(world: World) -> list[tuple[str, str, dict[str, Any]]]:
    """(method, path as RULES spells it, operation) of everything that needs a token."""
    document = world.service.get("/openapi.json").json
    found = [
        (method.upper(), access.template(path), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if not access.is_open(path)
    ]
    assert len(found) > 15
    return found


def filled(path: str, **values: str) -> str:
    """The path with its parameters, where it is. KeyError for a parameter that nobody thought of."""
    return ("" if path == "/metrics" else "/api") + re.sub(r"\{(\w+)\}", lambda match: values[match[1]], path)


def theirs(world: World, path: str) -> str:
    """The path of something that belongs to the other organization."""
    return filled(
        path,
        decision_id=world.theirs,
        domain="others-only",
        scope_id=OTHERS_SCOPE,
        spec_id=OTHERS_SPEC,
        snapshot_id=OTHERS_SNAPSHOT,
    )


def listing(path: str) -> bool:
    return "{" not in path


def test_every_operation_has_a_rule_and_says_it(world: World) -> None:
    for method, path, operation in operations(world):
        roles = access.RULES[(method, path)]
        assert operation["security"] == [{"token": []}]
        assert operation["x-mandate-roles"] == sorted(role.value for role in roles)
        assert {"401", "403"} <= operation["responses"].keys()
    schemes = world.service.get("/openapi.json").json["components"]["securitySchemes"]
    assert schemes["token"]["scheme"] == "bearer"


def test_without_a_valid_token_nothing_is_answered(world: World) -> None:
    before = counted(world.target)
    for method, path, _ in operations(world):
        for url in {theirs(world, path), theirs(world, path).replace("/api/", "/api/v1/", 1)}:
            answer = world.call(method, url, None, {})
            assert (answer.status, answer.problem) == (401, "token-required"), (method, url)
            assert answer.headers["www-authenticate"] == 'Bearer realm="mandate"'
        for wrong in INVALID:
            answer = world.call(method, theirs(world, path), wrong, {})
            assert (answer.status, answer.problem) == (401, "token-required"), (method, path, wrong)
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert counted(world.target) == before


@pytest.mark.parametrize(
    "header",
    [
        "{}",
        "Basic {}",
        "Bearer",
        "Bearer  ",
        "bearer\t{}",
        "Bearer {} {}",
        "Bearer {}\xe9",
        "Digest {}",
        "Bearer {},",
    ],
)
def test_a_token_is_given_in_one_way(world: World, header: str) -> None:
    given = header.replace("{}", world.tokens["operator"])
    answer = world.service.get("/api/decisions", headers={"Authorization": given})
    assert (answer.status, answer.problem) == (401, "token-required")


def test_the_scheme_has_no_case_and_head_is_get(world: World) -> None:
    given = {"Authorization": f"bEARER {world.tokens['auditor']}"}
    assert world.service.get("/api/decisions", headers=given).status == 200
    assert world.service.get("/api/decisions", method="HEAD", headers=given).status == 200
    assert world.service.get("/api/decisions", method="HEAD").status == 401


def test_an_unknown_path_tells_nothing_without_a_token(world: World) -> None:
    assert world.service.get("/api/nothing").status == 401
    assert world.call("GET", "/api/nothing", "auditor").problem == "no-such-path"


def test_a_token_of_the_wrong_role_is_refused_before_the_body_is_read(world: World) -> None:
    before = counted(world.target)
    for method, path, operation in operations(world):
        for role in Role:
            answer = world.call(method, theirs(world, path), role.value, b"{")
            refused = answer.status == 403 and b":role-not-allowed" in answer.body
            assert refused == (role.value not in operation["x-mandate-roles"]), (method, path, role)
    assert counted(world.target) == before


def test_what_is_of_others_is_not_there(world: World) -> None:
    for method, path, _ in operations(world):
        if method == "GET" and not listing(path):
            for token in ("auditor", "whole auditor", "operator", "whole operator"):
                answer = world.call("GET", theirs(world, path), token)
                assert answer.status == 404, (path, token, answer.body)
                nothing = filled(
                    path,
                    **dict.fromkeys(("decision_id", "snapshot_id"), str(uuid4())),
                    **dict.fromkeys(("domain", "scope_id", "spec_id"), "no-such-thing"),
                )
                assert answer.problem == world.call("GET", nothing, token).problem
            # It is there for those whose it is.
            assert world.call("GET", theirs(world, path), "others").status == 200, path


def test_lists_hold_nothing_of_others_whatever_is_asked(world: World) -> None:
    asked = [
        "",
        f"organization_id={ORGANIZATION}",
        "domain=finance",
        f"domain={OTHERS_UUID}",
        "domain=others-only",
    ]
    for method, path, operation in operations(world):
        known = {parameter["name"] for parameter in operation.get("parameters", [])}
        if method != "GET" or not listing(path) or "cursor" not in known:
            assert method != "GET" or path == "/metrics" or not listing(path), f"no list: {path}"
            continue
        extra = [f"scope_id={OTHERS_SCOPE}", f"domain={LOGISTICS_UUID}", "domain=logistics"]
        for query in asked + extra:
            if query.partition("=")[0] not in known | {""}:
                continue
            for token in ("auditor", "whole auditor"):
                rows = every(world, f"/api{path}?limit=3&{query}", token)
                assert all(row["organization_id"] == ORGANIZATION for row in rows), (path, query)
                if token == "auditor":
                    assert all(row["domain"] == "finance" for row in rows), (path, query)
        own = every(world, f"/api{path}", "whole auditor")
        assert {row["domain"] for row in own} >= {"finance", "logistics"}, path
        assert every(world, f"/api{path}", "auditor"), path
        answer = world.call("GET", f"/api{path}?organization_id={OTHERS}", "whole auditor")
        assert (answer.status, answer.problem) == (403, "outside-token"), path


def every(world: World, path: str, token: str) -> list[Any]:
    headers = {"Authorization": f"Bearer {world.tokens[token]}"}
    rows: list[Any] = []
    cursor = None
    while True:
        answer = world.service.get(path + (f"&cursor={cursor}" if cursor else ""), headers=headers)
        if answer.status == 404:
            return rows
        assert answer.status == 200, answer.body
        name = next(iter(answer.json))
        rows += answer.json[name]
        cursor = answer.json["next_cursor"]
        if cursor is None or "?" not in path:
            return rows


def test_a_cursor_of_others_opens_nothing(world: World) -> None:
    for method, path, operation in operations(world):
        known = {parameter["name"] for parameter in operation.get("parameters", [])}
        if method == "GET" and "cursor" in known and listing(path):
            answer = world.call("GET", f"/api{path}?limit=1", "others")
            cursor = answer.json["next_cursor"]
            if cursor is not None:
                rows = world.call("GET", f"/api{path}?limit=500&cursor={cursor}", "whole auditor").json
                assert all(row["organization_id"] == ORGANIZATION for row in next(iter(rows.values())))


@pytest.mark.parametrize(
    ("organization", "domain"),
    [
        *((OTHERS, domain) for domain in (OTHERS_DOMAIN, OTHERS_UUID, "others-only", "nowhere")),
        *((ORGANIZATION, domain) for domain in ("logistics", LOGISTICS_UUID, "nowhere", OTHERS_UUID)),
        ("00000000-0000-0000-0000-0000000000ff", "finance"),
    ],
)
def test_nothing_is_posted_outside(world: World, organization: str, domain: str) -> None:
    before = everything(world)
    for method, path, operation in operations(world):
        if method != "POST" or path in WRITES or not operation["x-mandate-roles"]:
            continue
        token = operation["x-mandate-roles"][0]
        answer = world.call(method, theirs(world, path), token, outside(method, path, organization, domain))
        if "{decision_id}" in path:
            assert (answer.status, answer.problem) == (404, "no-such-decision")
        elif domain in (OTHERS_UUID, LOGISTICS_UUID) and path != "/decisions":
            assert answer.status in (403, 422), (path, answer.body)
        else:
            assert (answer.status, answer.problem) == (403, "outside-token"), (path, answer.body)
    line = json.dumps(decision(organization_id=organization, domain=domain)).encode() + b"\n"
    answer = batch(world, line * 2)
    assert [json.loads(found)["status"] for found in answer.body.splitlines()] == [403, 403]
    assert everything(world) == before


def batch(world: World, body: bytes, token: str = "agent") -> Answer:
    headers = {"Content-Type": "application/x-ndjson", "Authorization": f"Bearer {world.tokens[token]}"}
    return post(world.service, body, "/api/decisions:batch", headers)


def everything(world: World) -> list[Any]:
    tables = ("organizations", "domains", "scopes", "mandate_specs", "policy_snapshots", "decision_events")
    with connect(world.target) as session:
        return [session.value(f"SELECT count(*) FROM mandate.{table}".encode()) for table in tables]


def test_what_says_not_whose_it_is_is_not_taken_from_a_token(world: World) -> None:
    before = everything(world)
    for token, changes in (
        ("agent", {"organization_id": None}),
        ("agent", {"domain": None}),
        ("whole agent", {"organization_id": None, "domain": None}),
    ):
        answer = world.call("POST", "/api/decisions", token, decision(**changes))
        assert (answer.status, answer.problem) == (403, "outside-token")
    assert everything(world) == before


def test_inside_everything_is_as_without_tokens(world: World) -> None:
    body = decision()
    first, again = (world.call("POST", "/api/decisions", "agent", body) for _ in range(2))
    assert (first.status, again.status) == (201, 200)
    assert first.json["verdict"] == again.json["verdict"]
    by_uuid = world.call("POST", "/api/decisions", "agent", decision(domain=FINANCE_UUID))
    assert by_uuid.status == 201
    decision_id = body["decision_id"]
    for part in ("", "/verdict", "/timeline"):
        assert world.call("GET", f"/api/decisions/{decision_id}{part}", "agent").status == 200
    said = world.call("POST", f"/api/decisions/{decision_id}/outcome", "agent", {"outcome": "done"})
    assert said.status == 201
    lines = batch(world, b"\n".join(json.dumps(decision()).encode() for _ in range(3))).body.splitlines()
    assert [json.loads(line)["status"] for line in lines] == [201] * 3
    for path in ("/api/domains/finance", f"/api/domains/{FINANCE_UUID}"):
        assert world.call("GET", path, "auditor").json["organization_id"] == ORGANIZATION
    assert world.call("GET", f"/api/decisions/{world.next_door}", "whole auditor").status == 200
    assert world.call("GET", f"/api/decisions/{world.next_door}", "auditor").status == 404


def test_an_operator_activates_and_retires_specs_inside(world: World) -> None:
    spec = outside("POST", "/specs", ORGANIZATION, "finance")
    if world.version == 7:
        assert world.call("POST", "/api/specs", "operator", spec).problem == "needs-version-8"
        return
    steps: list[tuple[dict[str, Any], tuple[int, str | None]]] = [
        ({}, (201, "active")),
        ({}, (200, "active")),
        ({"version": 1, "status": "deprecated"}, (201, "deprecated") if world.version == 9 else (409, None)),
        ({"version": 1}, (201, "active") if world.version == 9 else (200, "active")),
    ]
    for changes, expected in steps:
        answer = world.call("POST", "/api/specs", "operator", {**spec, **changes})
        assert (answer.status, answer.json.get("status") if answer.status != 409 else None) == expected


def test_a_decision_id_that_others_have_is_taken_and_shows_nothing(world: World) -> None:
    if world.version == 9:  # an id is an organization's own
        assert world.call("POST", "/api/decisions", "agent", decision(decision_id=world.theirs)).status == 201
    for decision_id in (world.theirs, world.next_door)[world.version == 9 :]:
        answer = world.call("POST", "/api/decisions", "agent", decision(decision_id=decision_id))
        assert (answer.status, answer.problem) == (409, "decision-conflict")
        line = batch(world, json.dumps(decision(decision_id=decision_id)).encode()).body
        assert json.loads(line)["status"] == 409


def test_what_needs_no_token_and_any_host(world: World) -> None:
    for path in ("/healthz", "/readyz", "/api/health", "/api/v1/health", "/openapi.json", "/docs"):
        assert world.service.get(path, headers={"Host": "mandate.example"}).status == 200
    headers = {"Host": "mandate.example", "Authorization": f"Bearer {world.tokens['auditor']}"}
    assert world.service.get("/api/decisions", headers=headers).status == 200


def test_the_log_names_the_token_and_never_its_secret(world: World) -> None:
    answer = world.call("GET", "/api/decisions", "auditor")
    assert world.service.line(answer)["token_id"] == world.tokens["auditor"].split("_")[1]
    text = world.service.log_file.read_text("utf-8")
    assert not [token for token in world.tokens.values() if token and token.rpartition("_")[2] in text]
