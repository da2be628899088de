"""How decisions gather for a statement, and that one which takes long keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

from tests.posting import ORGANIZATION, decision
from tests.servers import DatabaseFactory

from mandate.controlplane.access.principal import EVERYBODY, acting_as
from mandate.controlplane.catalogue import Catalogue
from mandate.controlplane.intake import Posted, read_decision
from mandate.controlplane.metrics import Metrics
from mandate.controlplane.recorder import Recorded, Recorder
from mandate.controlplane.store import Store
from mandate.postgres.connection import Target, connect
from mandate.postgres.pool import Pool

TAKE = b"""
INSERT INTO mandate.decision_events
    (organization_id, domain, decision_id, intent, stage, actor, target, timestamp)
VALUES (%(organization)s::uuid, 'finance', %(id)s::uuid, 'issue_refund', 'pre_commit', 'a', 't', now())
"""
STUCK = (
    b"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def posted(**changes: Any) -> Posted:
    return read_decision(json.dumps(decision(**changes)).encode())


async def behind_a_stuck_one(target: Target, taken: str) -> tuple[list[Recorded], int]:
    """What became of three decisions in one statement, which waits for somebody else's, and of one more."""
    reading, writing = (
        Pool(lambda: target, application_name="test", size=3, writing=writing) for writing in (False, True)
    )
    store = Store(reading)
    recorder = Recorder(writing, store, Catalogue(store), Metrics())
    async with reading, writing:
        await recorder.record(posted())
        with connect(target) as session, connect(target) as watching:
            session.execute(b"BEGIN")
            session.execute(TAKE, {"organization": ORGANIZATION, "id": taken})
            ids = (taken, str(uuid4()), str(uuid4()))
            together = [asyncio.create_task(recorder.record(posted(decision_id=each))) for each in ids]
            while not watching.value(STUCK):
                await asyncio.sleep(0.001)
            after = await asyncio.wait_for(recorder.record(posted()), 30)
            unanswered = sum(not task.done() for task in together)
            session.execute(b"ROLLBACK")
        return [*await asyncio.gather(*together), after], unanswered


def test_a_statement_that_waits_keeps_no_other_decision_waiting(database: DatabaseFactory) -> None:
    target = database("v9")
    with acting_as(EVERYBODY):
        found, unanswered = asyncio.run(behind_a_stuck_one(target, str(uuid4())))
    assert unanswered == 3  # they were one statement, and still waited
    assert [each.created for each in found] == [True] * 4
    with connect(target) as session:
        assert session.value(b"SELECT count(*) FROM mandate.verdict_events") == 5
