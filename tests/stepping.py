"""What a test needs to run one step by itself: a context, decisions to look at, a service that can lie."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mandate.postgres.connection import Target, connect
from mandate.progress import Silent
from mandate.runbook import identity
from mandate.runbook.step import Context, Options
from mandate.settings import Settings

RUN_ID = "20260131-020000-beef"


class Lines(Silent):
    """Keeps what a person would have read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def context(
    target: Target,
    directory: Path,
    settings: Mapping[str, Any] | None = None,
    results: Mapping[str, Mapping[str, Any]] | None = None,
    started_at: datetime | None = None,
) -> Context:
    """A context of run RUN_ID as the conductor would make it."""
    return Context(
        migration=identity.MIGRATION,
        run_id=RUN_ID,
        started_at=started_at or datetime.now(UTC),
        directory=directory,
        settings=Settings.model_validate(settings or {}),
        target=target,
        options=Options(jobs=1, lock_timeout_seconds=5),
        reporter=Lines(),
        results=results or {},
        estimates={},
    )


def add_decisions(target: Target, domain: str, count: int) -> None:
    """Record `count` decisions with their verdicts in a domain of the example data (version 7)."""
    with connect(target) as session:
        session.execute(
            """
            WITH owner AS (
                SELECT n.organization_id, n.domain_id FROM mandate.domains n WHERE n.name = %(domain)s
            ), decided AS (
                INSERT INTO mandate.decision_events
                    (decision_id, organization_id, domain_id, intent, stage, actor, target, timestamp)
                SELECT gen_random_uuid(), owner.organization_id, owner.domain_id, 'issue_refund',
                    'pre_commit', 'agent', 'order/' || n, now()
                FROM owner, generate_series(1, %(count)s) n
                RETURNING decision_id, organization_id, domain_id, timestamp
            )
            INSERT INTO mandate.verdict_events
                (verdict_id, decision_id, snapshot_id, organization_id, domain_id, verdict, timestamp)
            SELECT gen_random_uuid(), d.decision_id, s.snapshot_id, d.organization_id, d.domain_id,
                'ALLOW', d.timestamp
            FROM decided d
            CROSS JOIN LATERAL (
                SELECT p.snapshot_id FROM mandate.policy_snapshots p
                ORDER BY p.domain_id = d.domain_id DESC LIMIT 1
            ) s
            """,
            {"domain": domain, "count": count},
        )


class FakeService:
    """Answers GET by path (query included); a missing path is 404. Bodies are JSON or raw bytes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []


@contextmanager
def fake_service() -> Iterator[FakeService]:
    """A service on a free loopback port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    service = FakeService(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = _handler(service)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(service: FakeService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            service.asked.append(self.path)
            status, body = service.answers.get(self.path, (404, {"title": "not found"}))
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler
