"""Writers that keep their appointments: each transaction has a time, and latency counts from it."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import LiteralString, Self
from uuid import UUID, uuid4

from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, Target, connect

# What tells a client that the schema is another one: undefined table, column, function; wrong type; NULL.
_OTHER_VERSION = frozenset({"42P01", "42703", "42883", "42804", "22P02", "23502", "0A000"})

_V7: LiteralString = """
WITH d AS (
    INSERT INTO mandate.decision_events
        (decision_id, intent, stage, actor, target, context, scope, timestamp, organization_id, domain_id)
    VALUES (%(key)s, 'bench', 'pre_commit', 'writer', 'row', '{"amount": 1}', '{}', now(), %(organization)s,
            %(old_domain)s)
), v AS (
    INSERT INTO mandate.verdict_events
        (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids, timestamp,
         organization_id, domain_id)
    VALUES (%(key)s, %(key)s, %(snapshot)s, 'ALLOW', '{}', now(), %(organization)s, %(old_domain)s)
)
INSERT INTO mandate.audit_timeline_entries
    (entry_id, decision_id, intent, stage, actor, target, summary, details, severity, event_source,
     authority_level, timestamp, organization_id, domain_id)
SELECT gen_random_uuid(), %(key)s, 'bench', 'pre_commit', 'writer', 'row', s, '{}', 'info', 'system',
       'system', now(), %(organization)s, %(old_domain)s
FROM unnest(ARRAY['received', 'judged']) AS s
"""


@dataclass(frozen=True)
class Write:
    """One transaction: when it was due (epoch), seconds until its commit was known, why it failed."""

    key: UUID
    due: float
    seconds: float
    failure: str | None


@dataclass
class Crew:
    """Writers on connections of their own, together at `rate` transactions a second, until the block ends."""

    target: Target
    count: int
    rate: float
    writes: list[Write] = field(default_factory=list)

    def __enter__(self) -> Self:
        with connect(self.target) as session:
            row = session.row(
                "SELECT organization_id, domain_id AS old_domain, snapshot_id AS snapshot, name AS new_domain"
                " FROM mandate.policy_snapshots JOIN mandate.domains USING (organization_id, domain_id)"
                " ORDER BY snapshot_id LIMIT 1"
            )
        assert row is not None
        self._names = {"organization": row.pop("organization_id"), **row}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(self.count)]
        self._begun = time.time()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.writes.sort(key=lambda write: write.due)

    def _work(self, number: int) -> None:
        pause = self.count / self.rate
        due = self._begun + pause * number / self.count
        with ExitStack() as stack:
            session = stack.enter_context(connect(self.target, application_name=f"writer-{number}"))
            version = 7
            while not self._stop.wait(max(0.0, due - time.time())):
                key = uuid4()
                version, failure = self._write(session, version, key)
                self.writes.append(Write(key, due, time.time() - due, failure))
                due += pause

    def _write(self, session: Session, version: int, key: UUID) -> tuple[int, str | None]:
        """In the version that worked last; once in the other one. The version that worked, and a failure."""
        for tried in (version, 15 - version):
            try:
                session.execute(statement(tried), {**self._names, "key": key})
            except DatabaseError as error:
                failure = f"{error.sqlstate}: {error.message}"
                if error.sqlstate not in _OTHER_VERSION:
                    return version, failure
            else:
                return tried, None
        return version, failure


def statement(version: int) -> LiteralString:
    """The transaction for that version of the schema: a decision, its verdict, two entries."""
    if version == 7:
        return _V7
    return _V7.replace("domain_id)", "domain)").replace("%(old_domain)s", "%(new_domain)s")
