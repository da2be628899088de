"""Version 9: specs succeed each other by appended events, and organizations share no ids."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import MIGRATIONS
from tests.governing import WHOLE, changed
from tests.integration.test_apply import POLICIES, applied, names, refusal
from tests.posting import Point, counted, decision, decision_point, post, verdict_of
from tests.servers import Databases
from tests.serving import serving

from mandate.controlplane.governance import render, review, store
from mandate.controlplane.replay import Request, replay
from mandate.postgres.connection import Session, connect
from mandate.postgres.embedded import EmbeddedServer

STAGE = "        stage: pre_commit\n"
FEWER = changed("[web, phone, no]", "[web, phone]")


def as_status(status: str, text: str = WHOLE) -> str:
    return changed(STAGE, f"{STAGE}        status: {status}\n", text)


@pytest.fixture(scope="module")
def session(postgres: EmbeddedServer, _databases: dict[Path, Databases]) -> Iterator[Session]:
    databases = _databases.setdefault(postgres.data_dir, Databases(postgres, MIGRATIONS))
    target = databases.create("v9")
    with connect(target, application_name="tests") as session:
        yield session
    databases.drop(target.database)


def events(session: Session) -> list[str]:
    rows = session.rows(
        "SELECT event, spec_id, version, actor FROM mandate.spec_events WHERE domain = 'billing'"
        " ORDER BY position"
    )
    return [f"{row['event']} {row['spec_id']} {row['version']} by {row['actor']}" for row in rows]


def test_apply_supersedes_activates_and_retires(session: Session) -> None:
    applied(session, WHOLE)
    (change,) = applied(session, FEWER).creations
    assert (change.name, change.action) == ("billing.refund version 2 (active)", "create")
    assert list(change.details) == [
        *("issue_refund at pre_commit", "supersedes billing.refund version 1"),
        "differs from version 1 in signals",
    ]
    assert applied(session, FEWER).creations == ()
    # Back again is a version of its own, unless it is said which.
    (change,) = applied(session, as_version(1)).creations
    assert (change.name, change.action) == ("billing.refund version 1 (active)", "activate")
    assert applied(session, WHOLE).creations == ()
    (told,) = refusal(session, changed("[web, phone, no]", "[web]", as_version(2)))
    assert "version 2 differs in signals, and a version never changes" in told
    (told,) = refusal(session, as_status("draft", as_version(2, FEWER)))
    assert "no draft any more" in told
    # A draft waits until it is declared active.
    third = changed("default_verdict: ALLOW", "default_verdict: PAUSE")
    assert names(applied(session, as_status("draft", third))) == ["spec billing.refund version 3 (draft)"]
    (told,) = refusal(session, as_status("deprecated", as_version(3, third)))
    assert "never in force" in told
    (change,) = applied(session, third).creations
    assert (change.name, change.action) == ("billing.refund version 3 (active)", "activate")
    retired = changed(POLICIES, "    policies: []\n", as_status("deprecated", third))
    assert [(each.kind, each.action) for each in applied(session, retired).creations] == [
        *(("spec", "retire"), ("policies", "create")),
    ]
    assert applied(session, retired).creations == ()
    assert events(session) == [
        "activated billing.refund 1 by recorded as active",
        "activated billing.refund 2 by recorded as active",
        "activated billing.refund 1 by tests",
        "activated billing.refund 3 by tests",
        "retired billing.refund 3 by tests",
    ]
    assert {row["status"] for row in store.everything(session).specs if row["domain"] == "billing"} == {
        "deprecated"
    }
    text = render.text(store.everything(session))
    assert "billing.refund" not in text
    assert applied(session, text).creations == ()
    assert review.review(session).findings == ()


def as_version(version: int, text: str = WHOLE) -> str:
    return changed(STAGE, f"{STAGE}        version: {version}\n", text)


def test_a_successor_must_do_with_the_policies_that_stay(session: Session) -> None:
    mine = WHOLE.replace("billing", "standing")
    applied(session, mine)
    policies = POLICIES.replace("billing", "standing")
    without = changed(policies, "", mine)
    told = refusal(session, changed("name: amount", "name: total", without))
    assert ["15:9" in each and "policy pause-large does not fit" in each for each in told] == [True]
    fitting = changed("field: amount", "field: total", changed("name: amount", "name: total", mine))
    assert names(applied(session, fitting)) == [
        *("spec standing.refund version 2 (active)", "policies snapshot 2"),
    ]
    # What a policy was mistaken about before is no reason.
    session.execute(
        "INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, domain)"
        ' SELECT gen_random_uuid(), 3, policies || \'[{"id": "odd", "spec_id": "standing.refund",'
        ' "scope_id": "standing.default", "verdict": "BLOCK",'
        ' "conditions": [{"field": "nothing", "operator": "==", "value": 1}]}, 7]\', organization_id, domain'
        " FROM mandate.policy_snapshots WHERE domain = 'standing' AND version = 2"
    )
    again = changed(
        "default_verdict: ALLOW", "default_verdict: PAUSE", changed("name: amount", "name: total", without)
    )
    assert names(applied(session, again)) == ["spec standing.refund version 3 (active)"]


def test_two_organizations_use_the_same_ids(session: Session) -> None:
    for name in ("One", "Two"):
        text = changed("name: Acme", f"name: {name}").replace("billing", "shared")
        assert len(applied(session, text).creations) == 7
        assert applied(session, text).creations == ()
    with_both = session.value(
        "SELECT count(DISTINCT organization_id) FROM mandate.scopes WHERE scope_id = 'shared.default'"
    )
    assert with_both == 2


SPEC = {
    "organization_id": "00000000-0000-0000-0000-000000000001",
    "domain": "finance",
    "spec_id": "finance.refund",
    "intent": "issue_refund",
    "stage": "pre_commit",
    "allowed_verdicts": ["ALLOW", "PAUSE", "BLOCK", "OBSERVE"],
    "signals": [
        {"name": "amount", "type": "number", "required": True},
        {"name": "customer_verified", "type": "boolean", "required": True},
        {"name": "environment", "type": "string", "source": "scope"},
    ],
}
OTHER = {**SPEC, "spec_id": "finance.refund-2", "enforcement": {"default_verdict": "BLOCK"}}


@pytest.fixture(scope="module")
def point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Point]:
    with decision_point(request, tmp_path_factory.mktemp("served"), 9) as point:
        yield point


OTHERS = """
mandate: 1
organization: {name: Others, organization_id: 00000000-0000-0000-0000-0000000000aa}
domains:
  - domain: finance
    scopes: [{scope_id: finance.default, owning_team: Others}]
    specs:
      - {spec_id: finance.refund, intent: issue_refund, stage: pre_commit, allowed_verdicts: [BLOCK]}
    policies:
      - {id: finance-pause-large, spec_id: finance.refund, scope_id: finance.default, verdict: BLOCK}
"""
TABLES = {"decisions": "decision_events", "verdicts": "verdict_events", "specs": "mandate_specs"}
MINE, THEIRS = SPEC["organization_id"], "00000000-0000-0000-0000-0000000000aa"


def test_an_id_is_an_organization_s_own(point: Point) -> None:
    with connect(point.target) as session:
        applied(session, OTHERS)
    service, body = point.service, decision()
    theirs = {**body, "organization_id": THEIRS}
    assert [verdict_of(post(service, each)) for each in (body, theirs)] == ["PAUSE", "BLOCK"]
    assert [post(service, each).status for each in (body, theirs)] == [200, 200]
    path = f"/api/decisions/{body['decision_id']}"
    for part in ("", "/verdict", "/timeline"):
        assert (answer := service.get(path + part)).status == 409, answer.body
        assert answer.problem == "ambiguous"
        for owner in (MINE, THEIRS):
            found = service.get(f"{path}{part}?organization_id={owner}").json
            rows = found["timeline"] if part == "/timeline" else [found]
            assert {row["organization_id"] for row in rows} == {owner}
            assert len(rows) == (2 if part == "/timeline" else 1)
    said = {"outcome": "done"}
    assert post(service, said, f"{path}/outcome").problem == "ambiguous"
    assert post(service, said, f"{path}/outcome?organization_id={THEIRS}").status == 201
    lengths = [len(service.rows(f"{path}/timeline?organization_id={owner}")) for owner in (MINE, THEIRS)]
    assert lengths == [2, 3]
    assert service.get("/api/specs/finance.refund").problem == "ambiguous"
    assert service.get(f"/api/specs/finance.refund?organization_id={THEIRS}").json["version"] == 1
    shared = service.rows("/api/verdicts?scope_id=finance.default")
    assert THEIRS in {row["organization_id"] for row in shared}
    with connect(point.target) as session:
        # Received at one moment, with one id.
        session.execute(
            "INSERT INTO mandate.decision_events (decision_id, intent, stage, actor, target, timestamp,"
            " received_at, organization_id, domain) SELECT '0e0e0e0e-0000-4000-8000-000000000001', 'i',"
            " 'proposed', 'a', 't', now(), '2026-01-01Z', o::uuid, 'finance' FROM unnest(%s::text[]) o",
            ([MINE, THEIRS],),
        )
        for path, table in (
            ("decisions", "decision_events"),
            ("verdicts", "verdict_events"),
            ("specs", "mandate_specs"),
        ):
            rows = service.rows(f"/api/{path}?limit=1")
            assert rows == service.rows(f"/api/{path}?limit=500")
            assert len(rows) == session.value(f"SELECT count(*) FROM mandate.{table}".encode())
            for owner in (MINE, THEIRS):
                alone = [row for row in rows if row["organization_id"] == owner]
                assert service.rows(f"/api/{path}?limit=1&organization_id={owner}") == alone != rows
        session.execute("SET session_replication_role = replica")
        session.execute("DELETE FROM mandate.decision_events WHERE intent = 'i'")


def test_under_load_each_decision_has_the_one_spec_of_its_moment(point: Point, tmp_path: Path) -> None:
    """Two services; specs succeed each other through one of them, by mandate.yaml and by plain SQL."""
    with serving(point.target, tmp_path) as second:
        answers: Counter[tuple[int, str, int]] = Counter()
        stop = threading.Event()

        def decide(service: Any) -> None:
            while not stop.is_set():
                answer = post(service, decision(context={"amount": 5, "customer_verified": True}))
                assert answer.status == 201, answer.body
                taken = answer.json["decision"], answer.json["verdict"]
                assert taken[0]["spec_id"] == taken[1]["spec_id"]
                answers[answer.status, taken[1]["spec_id"], taken[1]["spec_version"]] += 1

        threads = [threading.Thread(target=decide, args=(each,)) for each in (point.service, second)]
        for thread in threads:
            thread.start()
        try:
            wanted = supersede(point)
            assert_new(second, wanted)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert {(spec_id, version) for _, spec_id, version in answers} >= {
            *(("finance.refund", 1), ("finance.refund", 2), ("finance.refund-2", 1)),
        }
        counted(point.target)
        belongs_to_its_moment(point)
        with replay(point.target, Request()) as report:
            assert report.totals.findings == {"same": report.totals.decisions}
        # A retired spec leaves nothing that could answer; the version that comes back is judged by again.
        retired = post(point.service, {**OTHER, "version": 1, "status": "deprecated"}, "/api/specs")
        assert (retired.status, retired.json["status"]) == (201, "deprecated")
        for service in (point.service, second):
            assert post(service, decision()).problem == "no-active-spec"
        back = post(second, {**SPEC, "version": 2}, "/api/specs")
        assert (back.status, back.json["status"], back.json["version"]) == (201, "active", 2)
        assert_new(point.service, ("finance.refund", 2))
        # Rows that somebody appends by hand are announced by nobody, and count from the next decision on.
        append(point, "retired", "finance.refund", 2)
        for service in (point.service, second):
            assert post(service, decision()).problem == "no-active-spec"
        append(point, "activated", "finance.refund", 1)
        for service in (point.service, second):
            assert_new(service, ("finance.refund", 1))


def append(point: Point, event: str, spec_id: str, version: int) -> None:
    with connect(point.target) as session:
        session.execute(
            "INSERT INTO mandate.spec_events (organization_id, domain, intent, stage, event, spec_id,"
            " version) VALUES (%s, 'finance', 'issue_refund', 'pre_commit', %s, %s, %s)",
            (SPEC["organization_id"], event, spec_id, version),
        )


def supersede(point: Point) -> tuple[str, int]:
    """Several successions; the spec of the last."""
    second = post(point.service, SPEC, "/api/specs")
    assert (second.status, second.json["version"]) == (201, 2)
    assert_new(point.service, ("finance.refund", 2))
    spec = {key: value for key, value in OTHER.items() if key not in ("organization_id", "domain")}
    block = {"domain": "finance", "specs": [spec]}
    organization = {"organization_id": SPEC["organization_id"]}
    with connect(point.target) as session:
        text = json.dumps({"mandate": 1, "organization": organization, "domains": [block]})
        (change,) = applied(session, text).creations
    assert list(change.details)[1:] == [
        *("supersedes finance.refund version 2", "policies of finance.refund no longer apply"),
    ]
    assert_new(point.service, ("finance.refund-2", 1))
    for spec_id, version in (("finance.refund", 1), ("finance.refund-2", 1)) * 3:
        append(point, "activated", spec_id, version)
        assert_new(point.service, (spec_id, version))
    return "finance.refund-2", 1


def assert_new(service: Any, wanted: tuple[str, int]) -> None:
    """A decision that is posted now is judged by that spec: nothing older is ever answered with."""
    answer = post(service, decision(context={"amount": 5, "customer_verified": True}))
    assert verdict_of(answer) == (
        "BLOCK" if wanted[0].endswith("2") else "ALLOW" if wanted[1] == 1 else "OBSERVE"
    )
    taken = answer.json["verdict"]
    assert (taken["spec_id"], taken["spec_version"]) == wanted


def belongs_to_its_moment(point: Point) -> None:
    """Every decision names a spec that was activated before it was written, and one that exists."""
    with connect(point.target) as session:
        strangers = session.value(
            "SELECT count(*) FROM mandate.decision_events d WHERE d.domain = 'finance' AND NOT EXISTS ("
            " SELECT FROM mandate.spec_events e WHERE (e.organization_id, e.domain, e.intent, e.stage,"
            " e.spec_id, e.version) = (d.organization_id, d.domain, d.intent, d.stage, d.spec_id,"
            " d.spec_version))"
        )
        assert strangers == 0
