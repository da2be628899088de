"""What a writing connection planned for empty tables does not stay."""

from __future__ import annotations

import asyncio

from tests.servers import DatabaseFactory
from tests.serving import eventually

from mandate.postgres.connection import Target, connect
from mandate.postgres.pool import Pool

WRITE = b"""
WITH decided AS (
    INSERT INTO mandate.decision_events
        (organization_id, domain, decision_id, intent, stage, actor, target, timestamp)
    SELECT organization_id, domain, gen_random_uuid(), 'issue_refund', 'pre_commit', 'a', 't', now()
    FROM mandate.domains, generate_series(1, %(many)s::int)
    WHERE domain = 'finance'
    RETURNING organization_id, domain, decision_id
)
INSERT INTO mandate.audit_timeline_entries
    (organization_id, domain, decision_id, entry_id, intent, stage, actor, target, summary, severity,
    event_source, authority_level, timestamp)
SELECT organization_id, domain, decision_id, gen_random_uuid(), 'issue_refund', 'pre_commit', 'a', 't', 's',
    'info', 'agent', 'agent', now()
FROM decided
RETURNING 1 AS one
"""


def test_foreign_keys_are_checked_by_their_key_once_there_are_rows(database: DatabaseFactory) -> None:
    target = database("v9")

    async def write() -> None:
        async with Pool(lambda: target, application_name="test", size=1, writing=True) as pool:
            for _ in range(12):
                assert len(await pool.rows(WRITE, {"many": "100"})) == 100

    asyncio.run(write())
    # What a session counted is told when its process ends, which may be after the client's end of it.
    found = eventually(lambda: _scans(target))
    # As often as decisions were written after the eighth statement.
    assert found.get("decision_events_organization_domain_decision_key", (0, 0))[0] >= 400, found


def _scans(target: Target) -> dict[str, tuple[int, int]]:
    with connect(target) as session:
        return {
            row["indexrelname"]: (row["idx_scan"], row["idx_tup_read"])
            for row in session.rows(
                b"SELECT * FROM pg_stat_user_indexes WHERE relname = 'decision_events' AND idx_scan > 0"
            )
        }
