"""Batches while PostgreSQL dies and comes back, at two services on one database."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.conftest import MIGRATIONS
from tests.integration.test_decide_changes import CRASHED
from tests.posting import counted, decision, post
from tests.servers import apply, temporary_directory
from tests.serving import Service, eventually, serving

from mandate.errors import MandateError
from mandate.postgres import embedded
from mandate.postgres.connection import connect

NDJSON = {"Content-Type": "application/x-ndjson"}


def batch(service: Service, bodies: Sequence[Any]) -> list[tuple[int, str | None]]:
    """Status and verdict_id of each line, in their order."""
    sent = b"\n".join(json.dumps(body).encode() for body in bodies)
    answer = post(service, sent, "/api/decisions:batch", NDJSON, timeout=120)
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["decision_id"] for line in lines] == [body["decision_id"] for body in bodies]
    return [(line["status"], line.get("verdict", {}).get("verdict_id")) for line in lines]


def test_every_line_has_its_answer_and_every_decision_one_verdict(tmp_path: Path) -> None:
    bodies = [decision(target=f"order/{n}") for n in range(5_000)]
    with temporary_directory() as place:
        server = embedded.start(place / "pg", port=0, options=CRASHED)
        try:
            target = server.target("postgres")
            apply(target, MIGRATIONS, upto=9)
            with (
                serving(target, tmp_path / "a") as one,
                serving(target, tmp_path / "b") as two,
                ThreadPoolExecutor(3) as threads,
            ):
                # Both are sent the same, one of them the other way round; a third client half of it.
                asked = [
                    (one, bodies),
                    (two, bodies[::-1]),
                    (one, bodies[::2]),
                ]
                running = [threads.submit(batch, *each) for each in asked]
                with connect(target) as session:
                    some = "SELECT count(*) FROM mandate.decision_events"
                    eventually(lambda: session.value(some) > 250)
                os.kill(server.pid, signal.SIGQUIT)
                eventually(lambda: one.get("/readyz").status == 503)
                embedded.start(place / "pg", port=server.port, options=CRASHED)
                answers = [each.result(120) for each in running]
                statuses = Counter(status for each in answers for status, _ in each)
                assert set(statuses) == {200, 201, 503}
                given: dict[str, set[str | None]] = {}
                for (_, sent), answered in zip(asked, answers, strict=True):
                    for body, (status, verdict) in zip(sent, answered, strict=True):
                        if status != 503:
                            given.setdefault(body["decision_id"], set()).add(verdict)
                eventually(lambda: two.get("/readyz").status == 200)
                again = dict(zip((body["decision_id"] for body in bodies), batch(two, bodies), strict=True))
                assert {status for status, _ in again.values()} <= {200, 201}
                assert given == {key: {again[key][1]} for key in given}
                assert counted(target) == (5_000, 5_000, 10_000)
        finally:
            with suppress(MandateError):
                embedded.stop(place / "pg", mode="immediate")
