"""A client while the service is killed, the database is gone, nobody answers: one verdict, or no action."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import MIGRATIONS
from tests.posting import ORGANIZATION, counted
from tests.relay import listener, relay
from tests.servers import DatabaseFactory, Databases, running_server
from tests.serving import Service, eventually, serving

from mandate.client import AsyncClient, Client, NotAuthenticated, Unavailable, Verdict, governed
from mandate.client.documents import DecisionFields
from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect

DECISION: DecisionFields = {
    "intent": "issue_refund",
    "stage": "pre_commit",
    "target": "order/1",
    "context": {"amount": 740, "customer_verified": True},
}
FOREVER_SECONDS = 120.0


def client_at(url: str, deadline: float = FOREVER_SECONDS, timeout: float = 60.0) -> Client:
    scope = {"service": "payments", "agent": "refund-agent", "environment": "prod"}
    return Client(
        url,
        timeout=timeout,
        deadline=deadline,
        organization_id=ORGANIZATION,
        domain="finance",
        actor="refund-agent",
        scope=scope,
    )


def kill(service: Service) -> None:
    os.kill(service.pid, signal.SIGKILL)
    service.process.wait()


def test_the_service_is_killed_and_started_again(database: DatabaseFactory, tmp_path: Path) -> None:
    """First between its commit and its answer, then while it records: each decision has its one verdict."""
    target = database("v8")
    with (
        ThreadPoolExecutor(1) as threads,
        serving(target, tmp_path) as first,
        relay(first.port) as between,
        client_at(between.url) as client,
    ):
        between.on_answer = lambda: kill(first)
        asked = threads.submit(client.decide, **DECISION)
        first.process.wait(60)
        assert counted(target)[:2] == (1, 1)
        with serving(target, tmp_path) as second:
            between.port = second.port
            verdict = asked.result(FOREVER_SECONDS)
            lost = json.loads(between.lost.partition(b"\r\n\r\n")[2])
            assert lost["verdict"]["verdict_id"] == verdict.verdict_id
            assert counted(target)[:2] == (1, 1)
            asked = _killed_while_it_records(threads, client, second, target)
        with serving(target, tmp_path) as third:
            between.port = third.port
            verdict = asked.result(FOREVER_SECONDS)
            assert client.verdict(verdict.decision_id) == verdict
    assert counted(target)[:2] == (2, 2)


def _killed_while_it_records(
    threads: ThreadPoolExecutor, client: Client, service: Service, target: Target
) -> Future[Verdict]:
    """PostgreSQL has the statement and may carry it out yet, when the service is no more."""
    waiting = "SELECT count(*) AS waiting FROM pg_locks WHERE NOT granted"
    with connect(target) as session, connect(target) as watching:
        session.execute("BEGIN; LOCK TABLE mandate.verdict_events IN SHARE MODE")
        asked = threads.submit(client.decide, **DECISION)
        eventually(lambda: (watching.row(waiting) or {})["waiting"])
        kill(service)
        session.execute("ROLLBACK")
    return asked


def test_the_database_goes_away_and_comes_back(tmp_path: Path) -> None:
    with running_server(18) as server, ThreadPoolExecutor(1) as threads:
        target = Databases(server, MIGRATIONS).create("v8")
        with serving(target, tmp_path) as service, client_at(f"http://127.0.0.1:{service.port}") as client:
            client.decide(**DECISION)
            embedded.stop(server.data_dir)
            asked = threads.submit(client.decide, **DECISION)
            eventually(lambda: any(line.get("status") == 503 for line in service.log()))
            embedded.start(server.data_dir, port=server.port)
            verdict = asked.result(FOREVER_SECONDS)
            assert verdict.verdict == "PAUSE"
            assert client.verdict(verdict.decision_id) == verdict
        assert counted(target)[:2] == (2, 2)


HEAD = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("parts", "least_tries"),
    [((), 2), ((b"\0\1\2 nonsense\r\n\r\n",), 2), ((HEAD, *[b"{"] * 100), 1)],
    ids=["silent", "nonsense", "trickling"],
)
def test_an_answer_that_never_comes_is_no_verdict(parts: tuple[bytes, ...], least_tries: int) -> None:
    done: list[str] = []
    with listener(*parts, pause=0.05) as there, client_at(there.url, deadline=0.5, timeout=0.15) as client:

        @governed(client=client, intent="i", target="t")
        def act() -> None:
            done.append("acted")

        with pytest.raises(Unavailable) as caught:
            act()
        assert caught.value.fields["tries"] >= least_tries
        bodies = {bytes(request).partition(b"\r\n\r\n")[2] for request in there.requests}
        assert len(bodies) == 1, "it is the same decision each time"

        async def later() -> None:
            async with AsyncClient(there.url, deadline=0.3, timeout=0.15) as asynchronous:
                await asynchronous.decide(**DECISION)

        with pytest.raises(Unavailable):
            asyncio.run(later())
    assert not done


@pytest.mark.fast
def test_a_cancelled_call_hangs_up_and_asks_nobody_else() -> None:
    async def work(url: str, asked: Any) -> None:
        async with AsyncClient(url, deadline=FOREVER_SECONDS) as client:
            done: list[str] = []

            @governed(client=client, intent="i", target="t", on_unavailable="proceed", report_outcome=True)
            async def act() -> None:
                done.append("acted")

            task = asyncio.create_task(act())
            await asyncio.to_thread(asked.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not done

    with listener() as there:
        asyncio.run(work(there.url, there.asked))
        assert there.ended.wait(60)
        assert len(there.requests) == 1


@pytest.mark.fast
def test_a_token_goes_to_the_service_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"type": "urn:mandate:problem:token-required", "title": "T", "status": 401, "detail": "revoked"}'
    head = (
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with (
        caplog.at_level("DEBUG"),
        listener(head.encode() + body) as there,
        Client(there.url, "mdt_id_secret") as client,
        pytest.raises(NotAuthenticated) as caught,
    ):
        client.decide(**DECISION)
    assert b"\r\nAuthorization: Bearer mdt_id_secret\r\n" in there.requests[0]
    assert len(there.requests) == 1
    assert "secret" not in caplog.text + repr(caught.value) + str(caught.value.as_dict()) + repr(client)
