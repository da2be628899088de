"""The administrative POSTs and what a starting service says, against a served database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.commands import mandate
from tests.conftest import MIGRATIONS
from tests.posting import post, verdict_of
from tests.servers import DatabaseFactory, Databases
from tests.serving import Service, eventually, serving

from mandate.postgres.connection import Jsonb, Target, connect
from mandate.postgres.embedded import EmbeddedServer

ORGANIZATION = "00000000-0000-0000-0000-000000000001"
NOBODY = "99999999-9999-4999-8999-999999999999"
WHERE = {"organization_id": ORGANIZATION, "domain": "claims"}
SCOPE = {**WHERE, "scope_id": "claims.prod.intake", "environment": "prod", "service": "intake"}
SPEC = {
    **WHERE,
    "spec_id": "claims.settle",
    "intent": "settle_claim",
    "stage": "pre_commit",
    "allowed_verdicts": ["ALLOW", "PAUSE", "BLOCK"],
    "signals": [{"name": "amount", "type": "number", "required": True}],
    "enforcement": {"default_verdict": "ALLOW"},
}
POLICY = {
    "id": "pause-large",
    "spec_id": "claims.settle",
    "scope_id": "claims.prod.intake",
    "conditions": [{"field": "amount", "operator": ">", "value": 500}],
    "verdict": "PAUSE",
}
SNAPSHOT = {**WHERE, "policies": [POLICY]}


@pytest.fixture(scope="module")
def served(
    postgres: EmbeddedServer, _databases: dict[Path, Databases], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Target]]:
    """One service for the module: each test has a domain of its own."""
    databases = _databases.setdefault(postgres.data_dir, Databases(postgres, MIGRATIONS))
    target = databases.create("v8")
    with serving(target, tmp_path_factory.mktemp("served")) as service:
        yield service, target
    databases.drop(target.database)


def sent(service: Service, path: str, body: Any, status: int) -> Any:
    answer = post(service, body, f"/api/{path}")
    assert answer.status == status, answer.body
    return answer.json


def refused(service: Service, path: str, body: Any, status: int, problem: str) -> list[tuple[str, str]]:
    """Pointers and details of a refusal."""
    answer = post(service, body, f"/api/{path}")
    assert (answer.status, answer.problem) == (status, problem), answer.body
    return [(error["pointer"], error["detail"]) for error in answer.json.get("errors", [])]


def decided(service: Service, amount: int) -> str:
    body = {
        **WHERE,
        "decision_id": f"6f1c0a52-8f7e-4a55-9f0b-{amount:012}",
        "intent": "settle_claim",
        "stage": "pre_commit",
        "actor": "claims-agent",
        "target": "claim/1",
        "context": {"amount": amount},
        "scope": {"environment": "prod", "service": "intake"},
        "timestamp": "2026-01-31T12:00:00Z",
    }
    return verdict_of(post(service, body))


def test_an_operator_begins_with_nothing_and_ends_with_verdicts(served: tuple[Service, Target]) -> None:
    service, target = served
    organization = sent(service, "organizations", {"name": "Other"}, 201)
    assert sent(service, "v1/organizations", {"name": "Other"}, 200) == organization
    assert organization["created_at"].endswith("+00:00")
    domain = sent(service, "domains", {**WHERE, "description": "Claims"}, 201)
    assert sent(service, "domains", {**WHERE, "description": "Claims"}, 200) == domain
    assert domain in service.rows("/api/domains?domain=claims")
    scope = sent(service, "scopes", SCOPE, 201)
    assert (scope["environment"], scope["agent"]) == ("prod", None)
    assert sent(service, "scopes", SCOPE, 200) == scope
    spec = sent(service, "specs", SPEC, 201)
    assert (spec["version"], spec["status"]) == (1, "active")
    assert sent(service, "specs", SPEC, 200) == spec
    first = sent(service, "policy-snapshots", SNAPSHOT, 201)
    assert sent(service, "policy-snapshots", SNAPSHOT, 200) == first
    assert [decided(service, amount) for amount in (500, 501)] == ["ALLOW", "PAUSE"]
    # A new snapshot decides at once.
    stricter = {**SNAPSHOT, "policies": [{**POLICY, "verdict": "BLOCK"}]}
    second = sent(service, "policy-snapshots", stricter, 201)
    assert (first["version"], second["version"]) == (1, 2)
    assert decided(service, 502) == "BLOCK"
    # And so does one that the command line applies.
    text = "mandate: 1\norganization: {organization_id: %s}\ndomains: [{domain: claims, policies: []}]\n"
    file = Path(service.log_file.parent, "m.yaml")
    file.write_text(text % ORGANIZATION)
    assert mandate("apply", "-f", file, "--yes", "--dsn", target.conninfo).returncode == 0
    assert decided(service, 503) == "ALLOW"
    with connect(target) as session:
        for table in ("scopes", "mandate_specs", "domains"):
            assert (
                session.value(f"SELECT count(*) FROM mandate.{table} WHERE domain = 'claims'".encode()) == 1
            )


def test_refusals_point_at_the_field(served: tuple[Service, Target]) -> None:
    service, target = served
    where, scope, spec, snapshot = (
        json.loads(json.dumps(body).replace("claims", "pointers")) for body in (WHERE, SCOPE, SPEC, SNAPSHOT)
    )
    sent(service, "domains", where, 201)
    sent(service, "scopes", scope, 201)
    sent(service, "specs", spec, 201)
    with connect(target) as session:
        before = session.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    invalid = "invalid-document"
    assert refused(service, "organizations", {}, 422, invalid) == [("", "`name` is missing")]
    assert refused(service, "organizations", [], 422, invalid) == [("", "a mapping is needed, not a list")]
    [found] = refused(service, "domains", {**where, "domain": "Claims & Co"}, 422, invalid)
    assert found[0] == "/domain"
    [found] = refused(service, "domains", {**where, "organization_id": NOBODY}, 422, invalid)
    assert found == ("/organization_id", f"there is no organization {NOBODY}")
    [found] = refused(
        service, "scopes", {**scope, "scope_id": "nowhere.x", "domain": "nowhere"}, 422, invalid
    )
    assert found == ("/domain", "Example has no domain nowhere")
    [found] = refused(service, "scopes", {**scope, "scope_id": "finance.x"}, 422, invalid)
    assert found[0] == "/scope_id"
    several = refused(
        service, "specs", {**spec, "stage": 1, "signals": [{"name": "x"}], "x": 1}, 422, invalid
    )
    assert [pointer for pointer, _ in several] == ["/signals/0/type", "/stage", "/x"]
    (policy,) = snapshot["policies"]
    wrong = {
        **policy,
        "conditions": [{"field": "amont", "operator": ">", "value": 500}],
        "scope_id": "claims.x",
    }
    several = refused(service, "policy-snapshots", {**snapshot, "policies": [policy, wrong]}, 422, invalid)
    assert [pointer for pointer, _ in several] == [
        *("/policies/1", "/policies/1/conditions/0/field", "/policies/1/scope_id"),
    ]
    conflict = "conflict"
    assert [p for p, _ in refused(service, "scopes", {**scope, "agent": "x"}, 409, conflict)] == ["/agent"]
    [found] = refused(service, "specs", {**spec, "allowed_verdicts": ["BLOCK", "ALLOW"]}, 409, conflict)
    assert "cannot retire" in found[1]
    assert refused(service, "scopes", b'{"a": 1', 400, "malformed-body") == [("", "this is not JSON")]
    assert refused(service, "scopes", b'{"a": 1, "a": 2}', 422, invalid)[0][0] == "/a"
    refused(service, "scopes", b"[" * 100_000, 400, "malformed-body")
    refused(service, "scopes", b'"' + b"x" * 300_000 + b'"', 413, "body-too-large")
    assert post(service, {}, "/api/scopes?x=1").status == 400
    assert (
        post(service, b"{}", "/api/scopes", {"Content-Type": "text/plain"}).problem
        == "unsupported-media-type"
    )
    nul = {"name": "a\u0000b"}
    assert refused(service, "organizations", nul, 422, invalid) == [
        ("/name", "the character U+0000 is not allowed")
    ]
    with connect(target) as session:
        written = b"SELECT count(*) FROM mandate.scopes WHERE xmin::text::bigint >= %s::bigint"
        assert session.value(written, (before,)) == 0


def test_many_at_once_create_one(served: tuple[Service, Target]) -> None:
    service, _ = served
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: post(service, {**WHERE, "domain": "many"}, "/api/domains"), range(8))
        )
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]
    assert len({answer.body for answer in answers}) == 1


def test_the_examples_of_the_description_work(served: tuple[Service, Target]) -> None:
    service, _ = served
    document = service.get("/openapi.json").json
    for path in ("organizations", "domains", "scopes", "specs", "policy-snapshots"):
        operation = document["paths"][f"/api/{path}"]["post"]
        assert {"200", "201", "400", "409", "413", "415", "422", "500", "503"} <= set(operation["responses"])
        content = operation["requestBody"]["content"]["application/json"]
        assert "$ref" not in json.dumps(content)
        answer = post(service, content["example"], f"/api/{path}")
        assert answer.status in (200, 201), answer.body
        name = operation["responses"]["201"]["content"]["application/json"]["schema"]["$ref"]
        model = document["components"]["schemas"][name.rpartition("/")[2]]
        assert set(answer.json) == set(model["properties"])


json_bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*SPEC, *SCOPE, "policies", "x"]), inner, max_size=5)
    ),
    max_leaves=10,
)


def test_no_body_is_answered_with_anything_undocumented(served: tuple[Service, Target]) -> None:
    service, _ = served

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(["organizations", "domains", "scopes", "specs", "policy-snapshots"]), json_bodies)
    def check(path: str, body: Any) -> None:
        given_body = {**SPEC, **body} if isinstance(body, dict) and path == "specs" else body
        answer = post(service, given_body, f"/api/{path}")
        assert answer.status in (200, 201, 409, 422), answer.body

    check()


@pytest.mark.parametrize("kind", ["v7", "v8"])
def test_a_starting_service_names_what_is_wrong_and_starts(
    database: DatabaseFactory, tmp_path: Path, kind: str
) -> None:
    target = database(kind)
    with connect(target) as session:
        row = session.row("SELECT * FROM mandate.policy_snapshots WHERE snapshot_id::text LIKE 'a0000002-%'")
        assert row is not None
        policies = [{**row["policies"][0], "id": "block-failures", "verdict": "BLOCK"}, *row["policies"][1:]]
        policies[0]["conditions"] = [{"field": "verified", "operator": "==", "value": False}]
        whose = "domain_id" if kind == "v7" else "domain"
        insert = (
            "INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, "
            + whose
            + ")"
            " VALUES (gen_random_uuid(), 3, %s, %s, %s)"
        )
        session.execute(insert.encode(), (Jsonb(policies), row["organization_id"], row[whose]))
    with serving(target, tmp_path) as service:
        assert service.get("/readyz").status == 200
        done = eventually(lambda: [x for x in service.log() if x["event"] == "specs and policies checked"])
        assert done[0]["mistakes"] == 1
        (mistake,) = [x for x in service.log() if x["event"] == "mistake"]
        assert mistake["where"] == "Example, domain finance, policy block-f·ailures, condition 1, field"
        if kind == "v7":
            answer = post(service, {"name": "Other"}, "/api/organizations")
            assert (answer.status, answer.problem) == (409, "needs-version-8")
        assert mistake["what"] == "spec finance.refund declares no signal verified: customer_verified?"
    checked = mandate("apply", "--check", "--dsn", target.conninfo, "--format", "json")
    assert checked.returncode == 3, checked.stderr
    (finding,) = json.loads(checked.stdout)["findings"]
    assert "policy block-failures" in finding["where"]


def test_the_check_waits_for_a_database(tmp_path: Path) -> None:
    with serving("host=127.0.0.1 port=1 dbname=nowhere", tmp_path) as service:
        assert service.get("/healthz").status == 200
        answer = post(service, {"name": "Other"}, "/api/organizations")
        assert (answer.status, answer.problem) == (503, "database-unavailable")
        assert service.stop() == 0
