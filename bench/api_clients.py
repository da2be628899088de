"""Clients that post decisions as fast as they are answered; a process of its own with time of its own.

    python -m bench.api_clients URL CLIENTS SECONDS

Prints JSON: decisions, seconds, and the milliseconds at the 50th and 99th percentile.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from urllib.parse import urlsplit
from uuid import uuid4

import uvloop

HEAD = (
    "POST /api/decisions HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)


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
        "timestamp": "2026-01-31T12:00:00Z",
    }


async def _client(host: str, port: int, end: float, taken: list[float]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    while time.perf_counter() < end:
        body = json.dumps(decision())
        began = time.perf_counter()
        writer.write((HEAD.format(len(body)) + body).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 201"):
            raise RuntimeError(head.decode())
        at = head.index(b"content-length:") + 15
        await reader.readexactly(int(head[at : head.index(b"\r", at)]))
        taken.append(time.perf_counter() - began)
    writer.close()


async def measure(url: str, clients: int, seconds: float) -> dict[str, float]:
    """Decisions and latencies of so many clients at a time."""
    parts = urlsplit(url)
    taken: list[float] = []
    began = time.perf_counter()
    host, port = parts.hostname or "127.0.0.1", parts.port or 3000
    await asyncio.gather(*(_client(host, port, began + seconds, taken) for _ in range(clients)))
    passed = time.perf_counter() - began
    taken.sort()
    return {
        "decisions": len(taken),
        "seconds": passed,
        "p50_ms": taken[len(taken) // 2] * 1000,
        "p99_ms": taken[len(taken) * 99 // 100] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))
