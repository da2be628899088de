"""Where a key change stands: its phases, in the database it changes, and what other terminals ask of it.

The record of every change lives in mandate_conductor and stays; log, maps and chunks live in the change's
own work schema and go with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mandate.errors import NeedsPerson
from mandate.postgres.connection import Jsonb, Session, sql
from mandate.rekey.model import Graph
from mandate.rekey.spec import Spec

_GRAPH = TypeAdapter(Graph)
_SQL = Path(__file__).parent / "sql"

PHASES = (
    "map",
    "shadow",
    "capture",
    "copy",
    "build",
    "catch up",
    "foreign keys",
    "verify",
    "cutover",
)
ENDED = ("finalized", "aborted")

# What can be done in each state, for whoever asked for something else.
NEXT: Mapping[str, str] = {
    "running": "nothing was swapped: `run` goes on, `abort` drops what it built",
    "swapped": "`rollback` goes back and loses nothing, `finalize` drops the old tables",
    "rolled back": "the old tables are in use: `run` goes forward again",
    "finalized": "the old tables were dropped: what was before is in your backups only",
    "aborted": "the old tables are in use, nothing of it is left: `run` begins again",
}


@dataclass(frozen=True)
class Change:
    """One key change. `status`: running, swapped (reverse window), rolled back, finalized, aborted."""

    name: str
    status: str
    spec: Mapping[str, Any]
    graph: Mapping[str, Any] | None
    started_at: datetime
    swapped_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class Phase:
    """A phase that began, and its figures once it ended."""

    phase: str
    started_at: datetime
    finished_at: datetime | None
    evidence: Mapping[str, Any]


def ensure(session: Session) -> None:
    """Create the record's tables where they are missing."""
    with session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(hashtextextended('mandate_conductor.rekey', 0))")
        session.execute((_SQL / "journal.sql").read_bytes())


def exists(session: Session) -> bool:
    """Whether this database has a record of key changes."""
    return session.value("SELECT to_regclass('mandate_conductor.rekeys') IS NOT NULL") is True


def load(session: Session, name: str) -> Change | None:
    """The newest change of that name."""
    if not exists(session):
        return None
    row = session.row(
        "SELECT name, status, spec, graph, started_at, swapped_at, ended_at FROM mandate_conductor.rekeys"
        " WHERE name = %s ORDER BY id DESC LIMIT 1",
        (name,),
    )
    return Change(**row) if row else None


def status(session: Session, name: str) -> str | None:
    """Of the newest change of that name."""
    change = load(session, name)
    return change.status if change else None


def begin(session: Session, spec: Spec) -> Change:
    """The change to work on: the one that is under way, else a new one.

    Raises NeedsPerson when the spec was edited under a change that is under way.
    """
    ensure(session)
    found = load(session, spec.rekey.name)
    if found is not None and found.status not in ENDED:
        if edited(found, spec):
            raise NeedsPerson(
                f"the spec of {spec.rekey.name} differs from the one that its change began with",
                hint="put the old spec back, or `mandate rekey abort` first",
            )
        return found
    session.execute(
        "INSERT INTO mandate_conductor.rekeys (name, status, spec) VALUES (%s, 'running', %s)",
        (spec.rekey.name, Jsonb(_document(spec))),
    )
    made = load(session, spec.rekey.name)
    assert made is not None
    return made


def edited(change: Change, spec: Spec) -> bool:
    """Whether the spec is another than the one that the change began with."""
    return dict(change.spec) != _document(spec)


def _document(spec: Spec) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(spec.model_dump_json(by_alias=True))
    return document


def keep_graph(session: Session, graph: Graph) -> None:
    """Keep what was discovered: after the swap the catalogue no longer shows it."""
    session.execute(
        "UPDATE mandate_conductor.rekeys SET graph = %s"
        " WHERE id = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %s)",
        (Jsonb(_GRAPH.dump_python(graph, mode="json", by_alias=True)), graph.spec.rekey.name),
    )


def kept_graph(change: Change) -> Graph | None:
    """The graph that the change began with."""
    return None if change.graph is None else _GRAPH.validate_python(change.graph)


def set_status(session: Session, name: str, status: str) -> None:
    """Where the change stands now; inside the caller's transaction when there is one."""
    session.execute(
        "UPDATE mandate_conductor.rekeys SET status = %(status)s,"
        " swapped_at = CASE WHEN %(status)s = 'swapped' THEN clock_timestamp() ELSE swapped_at END,"
        " ended_at = CASE WHEN %(status)s IN ('finalized', 'aborted') THEN clock_timestamp() END"
        " WHERE id = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %(name)s)",
        {"name": name, "status": status},
    )


def start_phase(session: Session, name: str, phase: str) -> None:
    """A phase begins, or begins again."""
    session.execute(
        "INSERT INTO mandate_conductor.rekey_phases (rekey, phase)"
        " SELECT max(id), %s FROM mandate_conductor.rekeys WHERE name = %s"
        " ON CONFLICT (rekey, phase) DO UPDATE SET finished_at = NULL",
        (phase, name),
    )


def end_phase(session: Session, name: str, phase: str, evidence: Mapping[str, Any]) -> None:
    """A phase is done, with these figures."""
    session.execute(
        "UPDATE mandate_conductor.rekey_phases SET finished_at = clock_timestamp(), evidence = %s"
        " WHERE phase = %s AND rekey = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %s)",
        (Jsonb(dict(evidence)), phase, name),
    )


def phases(session: Session, name: str) -> list[Phase]:
    """The phases of the newest change of that name, in the order in which they began."""
    rows = session.rows(
        "SELECT phase, started_at, finished_at, evidence FROM mandate_conductor.rekey_phases"
        " WHERE rekey = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %s) ORDER BY started_at",
        (name,),
    )
    return [Phase(**row) for row in rows]


def done(session: Session, name: str) -> frozenset[str]:
    """The phases that are done."""
    return frozenset(phase.phase for phase in phases(session, name) if phase.finished_at is not None)


def begin_again(session: Session, name: str) -> None:
    """After a rollback: as if nothing had been done or discovered; what was asked of it is forgotten too."""
    with session.transaction():
        forget_phases(session, name)
        session.execute(
            "UPDATE mandate_conductor.rekeys"
            " SET status = 'running', graph = NULL, paused = false, abort = false"
            " WHERE id = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %s)",
            (name,),
        )


def forget_phases(session: Session, name: str) -> None:
    """Begin from the first phase again (after a rollback)."""
    session.execute(
        "DELETE FROM mandate_conductor.rekey_phases"
        " WHERE rekey = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %s)",
        (name,),
    )


@dataclass(frozen=True)
class Control:
    """What other terminals ask: `throttle` is the share of time that copying may work, 0 < x <= 1."""

    paused: bool = False
    hold_cutover: bool = False
    abort: bool = False
    throttle: float | None = None


def control(session: Session, name: str) -> Control:
    """What is asked of the change now."""
    row = session.row(
        "SELECT paused, hold_cutover, abort AND status = 'running' AS abort, throttle"
        " FROM mandate_conductor.rekeys"
        " WHERE name = %s ORDER BY id DESC LIMIT 1",
        (name,),
    )
    return Control(**row) if row else Control()


def ask(session: Session, name: str, **changes: bool | float | None) -> bool:
    """Ask something of a change that is under way; False when there is none."""
    count = 0
    for column, value in changes.items():
        statement = sql.SQL(
            "UPDATE mandate_conductor.rekeys SET {} = %s"
            " WHERE status IN ('running', 'swapped', 'rolled back')"
            " AND id = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %s)"
        ).format(sql.Identifier(column))
        count = session.execute(statement, (value, name))
    return count > 0


def waits(session: Session, name: str, reason: str | None) -> None:
    """Say why the change waits, for `status` in another terminal; None: it works."""
    session.execute(
        "UPDATE mandate_conductor.rekeys SET waiting = %(reason)s"
        " WHERE id = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %(name)s)"
        " AND waiting IS DISTINCT FROM %(reason)s",
        {"reason": reason, "name": name},
    )


def waiting(session: Session, name: str) -> str | None:
    """Why the change waits."""
    reason: str | None = session.value(
        "SELECT waiting FROM mandate_conductor.rekeys WHERE name = %s ORDER BY id DESC LIMIT 1", (name,)
    )
    return reason


def report(session: Session, name: str, progress: Mapping[str, Any]) -> None:
    """Write down how far the change is, over what was written before."""
    session.execute(
        "INSERT INTO mandate_conductor.rekey_progress (rekey, at, progress)"
        " SELECT max(id), clock_timestamp(), %s FROM mandate_conductor.rekeys"
        " WHERE name = %s HAVING max(id) IS NOT NULL"
        " ON CONFLICT (rekey) DO UPDATE SET at = excluded.at, progress = excluded.progress",
        (Jsonb(dict(progress)), name),
    )


def progress(session: Session, name: str) -> dict[str, Any] | None:
    """How far the newest change of that name is, and `age_seconds`: how long ago that was."""
    # A database whose last change was run by an older version has no such table.
    if session.value("SELECT to_regclass('mandate_conductor.rekey_progress')") is None:
        return None
    row = session.row(
        "SELECT progress, extract(epoch FROM clock_timestamp() - at)::float8 AS age_seconds"
        " FROM mandate_conductor.rekey_progress"
        " WHERE rekey = (SELECT max(id) FROM mandate_conductor.rekeys WHERE name = %s)",
        (name,),
    )
    return None if row is None else {**row["progress"], "age_seconds": row["age_seconds"]}
