"""Decisions for the sample specs of 006, and posting them."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.conftest import MIGRATIONS
from tests.servers import Databases
from tests.serving import Answer, Service, serving

from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer

ORGANIZATION = "00000000-0000-0000-0000-000000000001"
FINANCE_UUID = "d0000001-0000-4000-8000-000000000001"


@dataclass(frozen=True)
class Point:
    """A served decision point and its database."""

    service: Service
    target: Target
    version: int


@contextmanager
def decision_point(
    request: pytest.FixtureRequest, log_directory: Path, version: int, kind: str | None = None
) -> Iterator[Point]:
    """A service on a fresh database with the sample specs; what it leaves behind is whole and untroubled."""
    server: EmbeddedServer = request.getfixturevalue("postgres")
    databases = Databases(server, MIGRATIONS)
    target = databases.create(kind or f"v{version}")
    with serving(target, log_directory) as service:
        yield Point(service, target, version)
        counted(target)
        assert service.stop() == 0
        trouble = re.findall("(?i).*(?:error|exception|fail).*", service.log_file.read_text())
        assert not trouble, trouble
    databases.drop(target.database)


def decision(**changes: Any) -> dict[str, Any]:
    """A refund of 740 that finance-pause-large pauses; None leaves a field out."""
    body: dict[str, Any] = {
        "decision_id": str(uuid4()),
        "organization_id": ORGANIZATION,
        "domain": "finance",
        "intent": "issue_refund",
        "stage": "pre_commit",
        "actor": "refund-agent",
        "target": "order/4711",
        "context": {"amount": 740, "customer_verified": True},
        "scope": {"service": "payments", "agent": "refund-agent", "environment": "prod"},
        "timestamp": "2026-01-31T12:00:00Z",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


def post(
    service: Service,
    body: Any,
    path: str = "/api/decisions",
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = 60,
) -> Answer:
    """POST a body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=timeout)
    try:
        given = {"Content-Type": "application/json", **(headers or {})}
        connection.request("POST", path, content, given)
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())
    finally:
        connection.close()


def verdict_of(answer: Answer) -> str:
    """The verdict in an answer to a decision that was taken."""
    assert answer.status in (200, 201), answer.body
    return str(answer.json["verdict"]["verdict"])


def counted(target: Target) -> tuple[int, int, int]:
    """Decisions, verdicts and timeline entries in the record, checked to belong together.

    Each decision has exactly one verdict and exactly one entry for its receipt and one for its verdict.
    """
    with connect(target) as session:
        row = session.row(
            b"""
            SELECT (SELECT count(*) FROM mandate.decision_events) AS decisions,
                (SELECT count(*) FROM mandate.verdict_events) AS verdicts,
                (SELECT count(*) FROM mandate.audit_timeline_entries) AS entries,
                (SELECT count(*) FROM mandate.decision_events d
                 WHERE 1 <> (SELECT count(*) FROM mandate.verdict_events v
                             WHERE v.decision_id = d.decision_id
                                AND v.organization_id IS NOT DISTINCT FROM d.organization_id)
                    OR (SELECT array_agg(details ->> 'type' ORDER BY timestamp)
                        FROM mandate.audit_timeline_entries t
                        WHERE t.decision_id = d.decision_id
                            AND t.organization_id IS NOT DISTINCT FROM d.organization_id
                            AND details ->> 'type' <> 'OUTCOME')
                       IS DISTINCT FROM ARRAY['DECISION_RECORDED', 'VERDICT_ISSUED']) AS torn
            """
        )
    assert row is not None
    assert row["torn"] == 0
    return row["decisions"], row["verdicts"], row["entries"]
