"""A replay from beginning to end: what is replayed, in which snapshot, and what came of it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mandate.controlplane.dialect import DIALECTS, SCHEMA_VERSION, Dialect
from mandate.controlplane.replay import records
from mandate.controlplane.replay.candidate import Candidate
from mandate.controlplane.replay.reading import load
from mandate.controlplane.replay.records import Selection
from mandate.controlplane.replay.state import Journal, Progress, journal
from mandate.controlplane.replay.totals import Totals
from mandate.controlplane.replay.working import APPLICATION_NAME, SETTINGS, Work, judged
from mandate.errors import NotMandate, UsageError
from mandate.postgres.connection import Session, Target, connect
from mandate.progress import Reporter, Silent

CHUNK_DECISIONS = 10_000
MAX_JOBS = 64
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_AGO = re.compile(r"(\d{1,9})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_IDENTITY = (
    "SELECT system_identifier::text AS system,"
    " (SELECT oid::text FROM pg_catalog.pg_database WHERE datname = current_database()) AS database"
    " FROM pg_catalog.pg_control_system()"
)


@dataclass(frozen=True)
class Request:
    """What to replay. `since` and `until` of the receipt: an ISO date or time, or how long ago (30d, 12h).

    `organization`: name or UUID; `domain`: name, or the UUID that it has or had. Without `candidate` every
    decision is compared with the policies that it was recorded with.
    """

    candidate: Path | None = None
    since: str | None = None
    until: str | None = None
    organization: str | None = None
    domain: str | None = None
    intent: str | None = None
    jobs: int = 1
    state: Path | None = None
    chunk_decisions: int = CHUNK_DECISIONS


@dataclass(frozen=True)
class Report:
    """What came of a replay. `lines()` are the decisions that are not the same, oldest first."""

    database: str
    version: int
    candidate: str | None
    selection: Selection
    totals: Totals
    seconds: float
    resumed: bool
    _journal: Journal

    @property
    def all_the_same(self) -> bool:
        """Whether every decision that could be compared, and should, is the same."""
        return self.totals.findings["different"] == self.totals.findings["uncheckable"] == 0

    @property
    def per_second(self) -> float:
        """Decisions per second of wall time."""
        return self.totals.decisions / self.seconds if self.seconds else 0.0

    def lines(self) -> Iterator[dict[str, Any]]:
        """One decision each, as judging tells it."""
        return self._journal.lines()

    def finish(self) -> None:
        """The report is where it belongs: forget the state."""
        self._journal.finish()


@contextmanager
def replay(target: Target, request: Request, reporter: Reporter | None = None) -> Iterator[Report]:
    """Do it, or go on with it where there is a state; the report's lines last as long as the context.

    Raises UsageError, NotMandate, RunLocked or a DatabaseError. The database is only read.
    """
    _check(request)
    with (
        connect(target, application_name=APPLICATION_NAME, settings=SETTINGS) as session,
        session.transaction(),
    ):
        dialect = _dialect(session)
        narrowed = _Narrowed.of(session, dialect, request)
        candidate = None
        if request.candidate is not None:
            candidate = load(session, dialect, request.candidate, narrowed.organization_id, narrowed.domain)
        subject = _subject(session, dialect, request, candidate)
        with journal(request.state, subject) as found:
            resumed = found.progress is not None
            progress = found.progress or found.begin(_selection(session, request, narrowed, candidate))
            run = _Run(target, session, dialect, request, candidate, reporter or Silent())
            run.go(found, progress)
            assert found.progress is not None
            yield Report(
                target.database,
                dialect.version,
                str(request.candidate) if request.candidate else None,
                progress.selection,
                found.totals,
                found.progress.seconds,
                resumed,
                found,
            )


def _check(request: Request) -> None:
    if not 1 <= request.jobs <= MAX_JOBS:
        raise UsageError(f"--jobs {request.jobs}: 1 to {MAX_JOBS}")
    for name in ("organization", "domain", "intent"):
        if not (getattr(request, name) or "").isprintable():
            raise UsageError(f"--{name} {getattr(request, name)!r} is not a text that can be recorded")


@dataclass(frozen=True)
class _Narrowed:
    """What --organization and --domain mean here."""

    organization_id: str | None
    domain: str | None

    @classmethod
    def of(cls, session: Session, dialect: Dialect, request: Request) -> _Narrowed:
        return cls(
            None if request.organization is None else _organization(session, request.organization),
            None if request.domain is None else _domain(session, dialect, request.domain),
        )


@dataclass(frozen=True)
class _Run:
    target: Target
    session: Session
    dialect: Dialect
    request: Request
    candidate: Candidate | None
    reporter: Reporter

    def go(self, found: Journal, progress: Progress) -> None:
        """From the journal's position to the end."""
        selection, began = progress.selection, time.monotonic() - progress.seconds
        snapshot = str(self.session.value("SELECT pg_catalog.pg_export_snapshot()"))
        texts = records.has_texts(self.session, self.dialect)
        work = Work(self.target, snapshot, self.dialect.version, selection, self.candidate, texts)
        before = found.totals.decisions
        left = records.count(self.session, self.dialect, selection, progress.position)
        ends = records.chunks(
            self.session, self.dialect, selection, progress.position, self.request.chunk_decisions
        )
        with (
            self.reporter.task("Replaying", total=before + left, unit="decisions") as task,
            closing(ends) as chunks,
            closing(judged(work, chunks, self.request.jobs)) as parts,
        ):
            for chunk, part in parts:
                found.checkpoint(chunk.upto, time.monotonic() - began, part.totals, part.lines)
                task.update(found.totals.decisions)


def _dialect(session: Session) -> Dialect:
    found = DIALECTS.get(session.value(SCHEMA_VERSION))
    if found is None:
        raise NotMandate(
            "the database has no schema of Mandate that can be replayed (version 7, 8 or 9)",
            hint="`mandate db init` makes one",
        )
    return found


def _subject(
    session: Session, dialect: Dialect, request: Request, candidate: Candidate | None
) -> dict[str, Any]:
    """What makes a replay this one: a state of another must not be resumed."""
    return {
        **(session.row(_IDENTITY.encode()) or {}),
        "version": dialect.version,
        "candidate": None if candidate is None else _digest(candidate),
        "since": request.since,
        "until": request.until,
        "organization": request.organization,
        "domain": request.domain,
        "intent": request.intent,
    }


def _digest(candidate: Candidate) -> str:
    """Equal for candidates that decide alike: the text of their frozen values."""
    values = (sorted(candidate.policies.items()), sorted(candidate.scopes.items()))
    return hashlib.blake2b(repr(values).encode(), digest_size=16).hexdigest()


def _selection(
    session: Session, request: Request, narrowed: _Narrowed, candidate: Candidate | None
) -> Selection:
    now: datetime = session.value("SELECT now()")
    # A history may have been recorded by a clock that is ahead of this one.
    received = session.value(
        "SELECT greatest(now(), (SELECT max(created_at) FROM mandate.decision_events))::text"
    )
    return Selection(
        _time("since", request.since, now, "-infinity"),
        _time("until", request.until, now, "infinity"),
        received,
        narrowed.organization_id,
        narrowed.domain,
        request.intent,
        None if candidate is None else candidate.domains,
    )


def _time(name: str, given: str | None, now: datetime, default: str) -> str:
    if given is None:
        return default
    try:
        if ago := _AGO.fullmatch(given):
            return (now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).isoformat()
        moment = datetime.fromisoformat(given)
    except (ValueError, OverflowError):
        raise UsageError(
            f"--{name} {given!r} is not a time",
            hint="2026-01-31, 2026-01-31T12:00:00Z, or 30d, 12h, 90m, 2w ago",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _organization(session: Session, given: str) -> str:
    uuid = given.lower() if _UUID.fullmatch(given) else None
    found = session.value(
        "SELECT organization_id::text FROM mandate.organizations"
        " WHERE name = %s OR organization_id = %s::uuid ORDER BY name LIMIT 1",
        (given, uuid),
    )
    if found is None:
        raise UsageError(f"--organization {given!r}: there is no such organization")
    return str(found)


def _domain(session: Session, dialect: Dialect, given: str) -> str:
    uuid = given.lower() if _UUID.fullmatch(given) else None
    found = session.value(dialect.statements["replay_domain"], {"value": given, "uuid": uuid})
    if found is None:
        raise UsageError(f"--domain {given!r}: there is no such domain")
    return str(found)
