"""Clients that post decisions as fast as they are answered; a process of its own with time of its own.

    python -m bench.api_clients URL CLIENTS SECONDS [DECISIONS]

Each keeps one connection and has one request under way. They share the machine with what they measure, so
they do no more than they must: requests are cut from a template, answers are looked at for their status and
their length. Ends after so many seconds or decisions. Prints JSON: decisions, seconds, the milliseconds at
the 50th and 99th percentile, and the processor time of the clients in microseconds per decision.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from datetime import UTC, datetime
from typing import cast
from urllib.parse import urlsplit
from uuid import uuid4

import uvloop

HEAD = (
    "POST /api/decisions HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)
CREATED = b"HTTP/1.1 201"
LENGTH = b"content-length: "


def decision() -> dict[str, object]:
    """A refund; above 500 it is paused."""
    return {
        "decision_id": str(uuid4()),
        "organization_id": "00000000-0000-0000-0000-000000000001",
        "domain": "finance",
        "intent": "issue_refund",
        "stage": "pre_commit",
        "actor": "refund-agent",
        "target": f"order/{random.randrange(1_000_000)}",
        "context": {"amount": random.randint(1, 1000), "customer_verified": True, "channel": "api"},
        "scope": {"service": "payments", "agent": "refund-agent", "environment": "prod"},
        "timestamp": _now(),
    }


def _now() -> str:
    return f"{datetime.now(UTC).isoformat(timespec='microseconds')[:-6]}Z"


def _template() -> bytes:
    """A request with places for what differs: id, order, amount and time, each of a fixed width."""
    body = json.dumps(
        {
            **decision(),
            "decision_id": "%032x",
            "target": "order/%06d",
            "context": {"amount": "%4d"},
            "timestamp": "%s",
        }
    )
    body = body.replace('"amount": "%4d"', '"amount": %4d, "customer_verified": true, "channel": "api"')
    body = body.replace("%032x", "%08x-%04x-4%03x-8%03x-%012x")
    length = len(body % (0, 0, 0, 0, 0, 0, 1, _now()))
    return (HEAD.format(length) + body).encode()


_TEMPLATE = _template()


def request() -> bytes:
    """One decision after another as a request."""
    bits = random.getrandbits(160)
    return _TEMPLATE % (
        bits & 0xFFFFFFFF,
        bits >> 32 & 0xFFFF,
        bits >> 48 & 0xFFF,
        bits >> 60 & 0xFFF,
        bits >> 72 & 0xFFFFFFFFFFFF,
        (bits >> 120 & 0xFFFFF) % 1_000_000,
        1 + (bits >> 140) % 1000,
        _now().encode(),
    )


class Clients:
    """What all connections have in common: until when, and how long each answer took."""

    def __init__(self, end: float, most: int | None) -> None:
        self.end = end
        self.left = sys.maxsize if most is None else most
        self.taken: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open = 0


class _Client(asyncio.Protocol):
    """One connection: posts, waits for the whole answer, posts."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._missing = 0
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._clients.open += 1
        self._post()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            if not data.startswith(CREATED):
                self._end(RuntimeError(data.decode()))
                return
            at = data.index(LENGTH) + len(LENGTH)
            length = int(data[at : data.index(b"\r", at)])
            self._missing = data.index(b"\r\n\r\n") + 4 + length - len(data)
        if self._missing == 0:
            self._clients.taken.append(time.perf_counter() - self._began)
            self._post()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RuntimeError("the service closed a connection"))

    def _post(self) -> None:
        self._began = time.perf_counter()
        self._clients.left -= 1
        if self._began < self._clients.end and self._clients.left >= 0:
            self._transport.write(request())
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        ended = self._clients.ended
        self._clients.open -= 1
        if error is not None and not ended.done():
            ended.set_exception(error)
        elif self._clients.open == 0 and not ended.done():
            ended.set_result(None)


async def measure(url: str, clients: int, seconds: float, most: int | None = None) -> dict[str, float]:
    """Decisions and latencies of so many clients at a time."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    began, busy = time.perf_counter(), time.process_time()
    all_of_them = Clients(began + seconds, most)
    host, port = parts.hostname or "127.0.0.1", parts.port or 3000
    for _ in range(clients):
        await loop.create_connection(lambda: _Client(all_of_them), host, port)
    await all_of_them.ended
    passed, taken = time.perf_counter() - began, sorted(all_of_them.taken)
    return {
        "decisions": len(taken),
        "seconds": passed,
        "p50_ms": taken[len(taken) // 2] * 1000,
        "p99_ms": taken[len(taken) * 99 // 100] * 1000,
        "client_us": (time.process_time() - busy) * 1e6 / len(taken),
    }


def main() -> None:
    """Measure what the command line says."""
    url, clients, seconds, *most = sys.argv[1:]
    found = measure(url, int(clients), float(seconds), int(most[0]) if most else None)
    print(json.dumps(uvloop.run(found)))


if __name__ == "__main__":
    main()
