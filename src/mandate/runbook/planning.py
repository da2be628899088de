"""What a run would do: steps, rows, locks, disk and time. Changes nothing.

With a sample, the engine does a little of its work in a transaction that is rolled back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mandate.postgres import lock
from mandate.postgres.connection import Session, connect, sql
from mandate.runbook import conduct, engine_run, foreseen, journal, modes, next_action, rehearsals
from mandate.runbook.foreseen import Foreseen
from mandate.runbook.migration import Migration
from mandate.runbook.modes import Mode

_ON_SERVER = "the server's data directory"
_REWRITTEN = "rewritten once"


@dataclass(frozen=True)
class Table:
    """One table of the migration: estimated rows, bytes with indexes, and what happens to it."""

    name: str
    rows: int
    bytes: int
    change: str


@dataclass(frozen=True)
class Disk:
    """Space that a run needs somewhere, in bytes; `free` None when it cannot be seen from here."""

    what: str
    where: str
    needed: int
    free: int | None


@dataclass(frozen=True)
class PlannedStep:
    """A step, what would be done about it now, and how long it took in the last rehearsal."""

    name: str
    title: str
    guide: str
    action: str
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """The whole plan. `action` says what `mandate run` would do first; `engine` is its part of it, if any."""

    migration: str
    database: str
    source: str
    server_version: str
    schema_version: int
    mode: str
    action: str
    held_by: str | None
    steps: tuple[PlannedStep, ...]
    tables: tuple[Table, ...]
    locks: tuple[Mapping[str, Any], ...]
    locks_measured: bool
    disk: tuple[Disk, ...]
    engine: Foreseen | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        engine = self.engine.as_dict() if self.engine else None
        return {**asdict(replace(self, engine=None)), "engine": engine}


def make(request: conduct.Request, *, sample: bool = True) -> Plan:
    """Look at the database and say what a run would do.

    Without `sample` the engine's time is known from a rehearsal or an earlier run alone.

    Raises NotMandate, UnsupportedServer, EditedMigration, UsageError for a bad --from or --to, and the
    error that the run itself would refuse with.
    """
    with connect(request.target, application_name="mandate-plan") as session:
        session.execute("SET default_transaction_read_only = on")
        version = conduct.require_version(session)
        migration = request.migration
        latest = journal.load_record(session, migration=migration.name)
        action = conduct.decide(request, session, latest, version)
        begins = version == migration.before
        if isinstance(action, next_action.Resume) and not conduct.goes_on(action.record, request, session):
            action = next_action.Begin()
        steps, text = _steps(action, replace(request, mode=_mode(action, request)), session)
        mode = _mode(action, request)
        engine = _engine(session, conduct.in_mode(request, mode), sample) if begins else None
        locks = rehearsals.newest(session, migration, mode).get("locks", [])
        who = lock.holder(session)
        return Plan(
            migration=migration.name,
            database=str(request.target),
            source=request.target.source,
            server_version=str(session.value("SHOW server_version")),
            schema_version=version,
            action=text,
            held_by=f"{who['application']} (process {who['pid']})" if who else None,
            steps=steps,
            mode=mode,
            tables=_tables(session, migration, mode) if begins else (),
            locks=tuple(locks or _static_locks(migration)),
            locks_measured=bool(locks),
            disk=_disk(session, request, engine) if begins else (),
            engine=engine,
        )


def _engine(session: Session, request: conduct.Request, sample: bool) -> Foreseen | None:
    """What the engine says, where it would do the work."""
    if request.mode is None or not modes.by_engine(request.mode):
        return None
    options = request.options
    jobs = engine_run.jobs_of(options.jobs, services_up=request.mode == modes.ONLINE)
    rehearsed = rehearsals.newest(session, request.migration, request.mode)
    return foreseen.look(
        request.migration, request.target, jobs, options.swap, sample, rehearsed, options.accept
    )


def _mode(action: next_action.Action, request: conduct.Request) -> Mode:
    """As the run that would go on began, else as asked."""
    if isinstance(action, next_action.Resume) and request.mode is None:
        return modes.parse(action.record.mode)
    return request.mode or modes.DEFAULT


def _steps(
    action: next_action.Action, request: conduct.Request, session: Session
) -> tuple[tuple[PlannedStep, ...], str]:
    if isinstance(action, next_action.Nothing):
        return (), f"nothing to do: {action.because}"
    if isinstance(action, next_action.Resume):
        record, text = action.record, f"go on with run {action.record.run_id}: {action.because}"
    else:
        record, text = conduct.new_record(request, session), "begin a new run"
    before = next_action.passed_steps(journal.load_record(session, migration=request.name))
    record, wanted = next_action.restrict(record, request.first, request.last, before)
    planned = rehearsals.seconds(session, request.migration, record.mode)
    rows = tuple(
        PlannedStep(
            name=step.name,
            title=step.title,
            guide=step.guide,
            action="run" if step.status == "pending" and step.name in wanted else _kept(step.status),
            seconds=planned.get(step.name),
        )
        for step in record.steps
    )
    return rows, text


def _kept(status: str) -> str:
    return {"passed": "done", "skipped": "left out"}.get(status, "not now")


def _tables(session: Session, migration: Migration, mode: str) -> tuple[Table, ...]:
    rows = session.rows(
        "SELECT c.relname AS name, greatest(c.reltuples, 0)::bigint AS rows,"
        " pg_total_relation_size(c.oid) AS bytes"
        " FROM pg_class c WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind = 'r' ORDER BY 3 DESC"
    )
    return tuple(
        Table(row["name"], _rows(session, row), row["bytes"], _change(row["name"], migration, mode))
        for row in rows
    )


def _rows(session: Session, row: Mapping[str, Any]) -> int:
    """The planner's estimate; a small table that was never analysed is counted."""
    if row["rows"] or row["bytes"] > 64 * 1024 * 1024:
        return int(row["rows"])
    return int(
        session.value(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("mandate", row["name"])))
    )


def _change(table: str, migration: Migration, mode: str) -> str:
    if not modes.by_engine(mode):
        return migration.by_hand.get(table, "unchanged")
    return "built anew" if table in migration.by_hand else "unchanged"


def _static_locks(migration: Migration) -> list[dict[str, Any]]:
    """What is known without a rehearsal. The engine takes each for moments only, at its start and end."""
    names = (*migration.by_hand, "organizations")
    return [{"table": f"mandate.{name}", "mode": "AccessExclusiveLock", "seconds": None} for name in names]


def _disk(session: Session, request: conduct.Request, engine: Foreseen | None) -> tuple[Disk, ...]:
    whole = int(session.value("SELECT pg_database_size(current_database())"))
    directory = _existing(request.settings.run.directory.absolute())
    data = _data_directory(session)
    free = shutil.disk_usage(data).free if data else None
    return (
        Disk("backup, uncompressed at worst", str(directory), whole, shutil.disk_usage(directory).free),
        Disk("restored copy for proof and rehearsal", _ON_SERVER, whole, free),
        *_of_migrating(session, request.migration, engine, free),
    )


def _of_migrating(
    session: Session, migration: Migration, engine: Foreseen | None, free: int | None
) -> Iterator[Disk]:
    """What the step that migrates writes beside what is there."""
    if engine is None:
        yield Disk(
            "rewritten tables and their WAL", _ON_SERVER, 2 * _rewritten_bytes(session, migration), free
        )
    for place in engine.forecast.places if engine and engine.forecast else ():
        where = place.path or f"tablespace {', '.join(place.tablespaces)}"
        yield Disk("new tables beside the old ones", where, place.needed + place.margin, place.free)


def _rewritten_bytes(session: Session, migration: Migration) -> int:
    return int(
        session.value(
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class"
            " WHERE relnamespace = 'mandate'::regnamespace AND relname = ANY (%s)",
            ([table for table, change in migration.by_hand.items() if change == _REWRITTEN],),
        )
    )


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _data_directory(session: Session) -> Path | None:
    """The server's data directory when it is on this machine and we may know it."""
    name = session.value(
        "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
        " AND pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')"
    )
    path = Path(name) if name else None
    try:
        return path if path and path.exists() else None
    except PermissionError:
        return path.parent if path and path.parent.exists() else None
