"""Decisions while everything moves: definitions, the schema, PostgreSQL, and the service itself."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import MIGRATIONS
from tests.posting import ORGANIZATION, counted, decision, post, verdict_of
from tests.servers import DatabaseFactory, apply, temporary_directory
from tests.serving import Service, eventually, migrate_with_psql, serving

from mandate.controlplane.governance.store import CHANNEL
from mandate.errors import MandateError
from mandate.postgres import embedded
from mandate.postgres.connection import Session, Target, connect

# What was answered must be there after a crash of PostgreSQL; a crash of the machine is another matter.
CRASHED = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on", "shared_buffers": "32MB"}
FINANCE = {7: "d0000001-0000-4000-8000-000000000001", 8: "finance"}
EVERYWHERE = {7: "5c000002-0000-4000-8000-000000000002", 8: "finance.default"}
COLUMN = {7: "domain_id", 8: "domain"}


def add_snapshot(target: Target, version: int, verdict: str) -> None:
    """By SQL and without a word to anybody: from now on every refund gets this verdict."""
    policy = {"id": "all", "spec_id": "finance.refund", "scope_id": EVERYWHERE[version], "verdict": verdict}
    _insert(
        target,
        """
        INSERT INTO mandate.policy_snapshots (snapshot_id, version, organization_id, {column}, policies)
        SELECT gen_random_uuid(), max(version) + 1, organization_id, {column},
            jsonb_build_array(%(policy)s::jsonb)
        FROM mandate.policy_snapshots WHERE {column}::text = %(domain)s GROUP BY organization_id, {column}
        """,
        version,
        {"policy": json.dumps(policy), "domain": FINANCE[version]},
    )


def add_scope(target: Target, version: int) -> None:
    """The most specific one for tenant acme."""
    key = {7: "gen_random_uuid()", 8: "'finance.acme'"}[version]
    _insert(
        target,
        f"""
        INSERT INTO mandate.scopes
            (scope_id, organization_id, {{column}}, environment, service, agent, tenant, owning_team)
        VALUES ({key}, %(organization)s, %(domain)s, 'prod', 'payments', 'refund-agent', 'acme', 'Newcomers')
        """,
        version,
        {"organization": ORGANIZATION, "domain": FINANCE[version]},
    )


def add_spec(target: Target) -> None:
    """For the intent `pay`."""
    _insert(
        target,
        """
        INSERT INTO mandate.mandate_specs
            (spec_id, version, organization_id, domain, intent, stage, allowed_verdicts, enforcement, status)
        VALUES ('finance.pay', 1, %(organization)s, 'finance', 'pay', 'pre_commit', '{{ALLOW,BLOCK}}',
            '{{"default_verdict": "ALLOW"}}', 'active')
        """,
        8,
        {"organization": ORGANIZATION},
    )


def _insert(target: Target, statement: str, version: int, params: dict[str, Any]) -> None:
    with connect(target) as session:
        session.execute(statement.format(column=COLUMN[version]).encode(), params)


@pytest.mark.parametrize("version", [7, 8])
def test_what_psql_changes_counts_from_the_next_decision_on(
    version: int, database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database(f"v{version}")
    with serving(target, tmp_path) as service:
        assert verdict_of(post(service, decision())) == "PAUSE"
        for verdict in ("BLOCK", "ALLOW", "OBSERVE"):
            add_snapshot(target, version, verdict)
            assert verdict_of(post(service, decision())) == verdict
        assert post(service, decision(intent="pay")).problem == "no-active-spec"
        add_spec(target)
        acme = {**decision()["scope"], "tenant": "acme"}
        answer = post(service, decision(intent="pay", scope=acme))
        assert (verdict_of(answer), answer.json["verdict"]["owning_team"]) == ("ALLOW", "Payments")
        add_scope(target, version)
        assert post(service, decision(intent="pay", scope=acme)).json["verdict"]["owning_team"] == "Newcomers"
        counted(target)


BROKEN = [
    ('[{"id": "x"}]', "BLOCK", "snapshot version 3: policy x"),
    (
        '[{"id": "x", "scope_id": "gone", "spec_id": "finance.refund", "verdict": "ALLOW"}]',
        "BLOCK",
        "policy x is",
    ),
]


@pytest.mark.parametrize(("policies", "verdict", "why"), BROKEN)
def test_policies_that_cannot_be_meant_fail_closed(
    policies: str, verdict: str, why: str, database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v8")
    _insert(
        target,
        "INSERT INTO mandate.policy_snapshots (snapshot_id, version, organization_id, {column}, policies)"
        " VALUES (gen_random_uuid(), 3, %(organization)s, 'finance', %(policies)s)",
        8,
        {"organization": ORGANIZATION, "policies": policies},
    )
    with serving(target, tmp_path) as service:
        answer = post(service, decision())
        assert verdict_of(answer) == verdict
        assert answer.json["verdict"]["explanation"].startswith(why)


class Clients:
    """Threads that post until they are told to stop, each decision again until it is answered."""

    def __init__(self, threads: ThreadPoolExecutor, service: Service, count: int = 6) -> None:
        self.service = service
        self.statuses: Counter[int | str] = Counter()
        self.answered: dict[str, list[Any]] = {}
        self._done = threading.Event()
        self._running = [threads.submit(self._work) for _ in range(count)]

    def _work(self) -> None:
        while not self._done.is_set():
            body = decision()
            while True:
                status = self._try(body)
                if status in (200, 201) or self._done.is_set():
                    break

    def _try(self, body: dict[str, Any]) -> int | str:
        try:
            answer = post(self.service, body, timeout=20)
        except (OSError, http.client.HTTPException):
            status: int | str = "lost"
        else:
            status = answer.status
            if status in (200, 201):
                self.answered.setdefault(body["decision_id"], []).append(answer.json["verdict"]["verdict_id"])
            elif status == 503:
                assert answer.headers["retry-after"]
        self.statuses[status] += 1
        return status

    def stop(self) -> None:
        self._done.set()
        for each in self._running:
            each.result(120)

    def check(self, target: Target) -> None:
        """Every answer that was given is in the record, once and as it was given."""
        counted(target)
        with connect(target) as session:
            rows = session.rows(
                b"SELECT decision_id::text AS d, verdict_id::text AS v FROM mandate.verdict_events"
            )
        recorded = {row["d"]: row["v"] for row in rows}
        assert {key: [recorded.get(key)] for key in self.answered} == {
            key: [*dict.fromkeys(given)] for key, given in self.answered.items()
        }


@contextmanager
def clients(service: Service) -> Iterator[Clients]:
    with ThreadPoolExecutor() as threads:
        working = Clients(threads, service)
        try:
            yield working
        finally:
            working.stop()


def answered(working: Clients, more: int) -> None:
    """Wait for so many more answers."""
    goal = len(working.answered) + more
    eventually(lambda: len(working.answered) >= goal)


def test_migration_008_under_decisions(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v7")
    with serving(target, tmp_path) as service, clients(service) as working:
        answered(working, 20)
        eventually(lambda: _migrated(target))
        answered(working, 20)
        working.stop()
        trouble = [line for line in service.log() if line.get("status") not in (None, 200, 201)]
        assert trouble == []
        assert set(working.statuses) == {201}
        working.check(target)
        assert service.get("/readyz").json["schema_version"] == 8
        keys = {row["scope_id"] for row in service.rows("/api/verdicts?limit=500")}
        assert keys == {"finance.prod.payments.refund-agent"}


def _migrated(target: Target) -> bool:
    """Whether 008 went through: among writers it may be the one to give way in a deadlock."""
    try:
        migrate_with_psql(target)
    except subprocess.CalledProcessError:
        return False
    return True


@pytest.mark.parametrize("version", [8])
def test_postgresql_dies_under_decisions(version: int, tmp_path: Path) -> None:
    with temporary_directory() as place:
        server = embedded.start(place / "pg", port=0, options=CRASHED)
        try:
            target = server.target("postgres")
            apply(target, MIGRATIONS, upto=version)
            with serving(target, tmp_path) as service, clients(service) as working:
                for _ in range(2):
                    answered(working, 30)
                    embedded.stop(place / "pg", mode="immediate")
                    eventually(lambda: working.statuses[503])
                    embedded.start(place / "pg", port=server.port, options=CRASHED)
                answered(working, 30)
                working.stop()
                assert set(working.statuses) <= {200, 201, 503}
                working.check(target)
        finally:
            with suppress(MandateError):
                embedded.stop(place / "pg", mode="immediate")


def test_the_service_dies_under_decisions(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    with serving(target, tmp_path) as service, clients(service) as working:
        answered(working, 50)
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait(60)
        eventually(lambda: working.statuses["lost"])
        before = dict(working.answered)
        with serving(target, tmp_path, "--port", str(service.port)) as again:
            eventually(lambda: len(working.answered) > len(before) + 20)
            working.stop()
            assert set(working.statuses) <= {200, 201, "lost"}
            working.check(target)
            assert again.stop() == 0


def test_a_graceful_end_answers_what_it_took(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    with serving(target, tmp_path) as service, ThreadPoolExecutor(12) as threads:
        post(service, decision())
        with connect(target) as session, session.transaction():
            session.execute(b"LOCK TABLE mandate.verdict_events IN ACCESS EXCLUSIVE MODE")
            asked = [threads.submit(post, service, decision()) for _ in range(12)]
            eventually(lambda: b"mandate_decisions_in_flight 12.0" in service.get("/metrics").body)
            os.kill(service.pid, signal.SIGTERM)
            eventually(lambda: any(line["event"] == "Shutting down" for line in service.log()))
        assert {each.result(60).status for each in asked} == {201}
        assert service.process.wait(60) == 0
        assert counted(target)[0] == 13


def test_a_lock_that_lasts_is_a_503_and_nothing_is_half_recorded(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v8")
    slow = Target({**target.parameters, "options": "-c statement_timeout=500ms"}, target.source)
    body = decision()
    with serving(slow, tmp_path) as service:
        with connect(target) as session, session.transaction():
            session.execute(b"LOCK TABLE mandate.audit_timeline_entries IN ACCESS EXCLUSIVE MODE")
            answer = post(service, body)
            assert (answer.status, answer.problem) == (503, "database-busy")
        assert counted(target) == (0, 0, 0)
        assert post(service, body).status == 201


def test_a_row_that_cannot_be_written_fails_alone(database: DatabaseFactory, tmp_path: Path) -> None:
    """One of a group meets a constraint of the field's own; the others are recorded."""
    target = database("v8")
    with connect(target) as session:
        session.execute(b"ALTER TABLE mandate.decision_events ADD CHECK (target <> 'forbidden')")
    with serving(target, tmp_path) as service, ThreadPoolExecutor(16) as threads:
        bodies = [decision(target="forbidden" if n % 10 == 3 else f"t{n}") for n in range(100)]
        statuses = [answer.status for answer in threads.map(lambda body: post(service, body), bodies)]
        assert statuses == [500 if n % 10 == 3 else 201 for n in range(100)]
        assert counted(target)[0] == 90


def test_what_is_announced_is_loaded_again_before_it_is_needed(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v8")
    with serving(target, tmp_path) as service, connect(target) as session:
        for _ in range(2):  # the second time on a connection that had to be made again
            eventually(lambda: _loaded(service))
            eventually(lambda: _announced(session, service))
            session.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                b" WHERE datname = current_database() AND application_name = 'mandate-serve'"
            )
        assert verdict_of(post(service, decision())) == "PAUSE"


def _loaded(service: Service) -> bool:
    """Posted again until it stays in memory: beginning to listen makes the service forget."""
    post(service, decision())
    return b"mandate_catalogue_domains 1.0" in service.get("/metrics").body


def _announced(session: Session, service: Service) -> bool:
    """Said again until it is heard: the service may be between two connections."""
    session.execute("SELECT pg_notify(%s, %s)", (CHANNEL, ORGANIZATION))
    return b"mandate_catalogue_domains 0.0" in service.get("/metrics").body


def test_metrics_tell_what_happened(database: DatabaseFactory, tmp_path: Path) -> None:
    with serving(database("v8"), tmp_path) as service:
        for _ in range(3):
            post(service, decision())
        post(service, b"[")
        service.get("/nowhere")
        text = service.get("/metrics").body.decode()
        for line in (
            'mandate_verdicts_total{stage="pre_commit",verdict="PAUSE"} 3.0',
            'mandate_requests_total{method="POST",status="201"} 3.0',
            'mandate_requests_total{method="POST",status="400"} 1.0',
            'mandate_requests_total{method="?",status="404"} 1.0',
            'mandate_decision_seconds_count{step="write"} 3.0',
            "mandate_group_decisions_count 3.0",
            "mandate_catalogue_domains 1.0",
        ):
            assert line in text, text
        assert "_created" not in text
        assert 'mandate_pool{figure="pool_size",pool="writing"}' in text
