"""mandate status, watch: what the journal says, once or live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mandate.cli import options, output, rekey_load, run_text
from mandate.cli.output import Format, seconds
from mandate.errors import DatabaseUnavailable
from mandate.postgres import lock
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.target import resolve
from mandate.runbook import guarded, journal, migrations, window
from mandate.runbook.migration import Migration
from mandate.runbook.record import RunRecord, StepRecord
from mandate.runbook.window import Window

Which = Annotated[
    str | None, typer.Argument(metavar="[MIGRATION]", help="Which migration: 008 or 009; the newest run's.")
]


def _chosen(session: Session, asked: Migration | None) -> Migration:
    """The migration that is asked for; without that, the one whose run is the newest."""
    return asked or guarded.in_question(session, migrations.require_version(session))


def _which(asked: Migration | None) -> str:
    return f"migration {asked.name}" if asked else "a migration"


@options.command
def status(
    migration: Which = None,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """What the journal says about the newest run of this database."""
    asked = guarded.find(migration) if migration is not None else None
    target = resolve(options.load(config, {"database.dsn": dsn}))
    with connect(target, application_name="mandate-status") as session:
        version = migrations.require_version(session)
        chosen = _chosen(session, asked)
        record = journal.load_record(session, migration=chosen.name)
        holder = lock.holder(session)
        engine = rekey_load.state(session, chosen.name)
        found = window.look(session, chosen)
    data = {
        "version": version,
        "migration": chosen.name,
        "run": record.as_dict() if record else None,
        "engine": engine,
        "window": found.as_dict() if found else None,
        "holder": holder,
        "alive": holder is not None,
    }
    output.emit(
        format, "status", data, lambda: "\n".join(_status(target, chosen, data, record, found, asked))
    )
    return 0


def _status(
    target: Target,
    chosen: Migration,
    data: dict[str, Any],
    record: RunRecord | None,
    found: Window | None,
    asked: Migration | None,
) -> Iterator[str]:
    holder, engine = data["holder"], data["engine"]
    yield f"{target}: schema version {data['version']}"
    if record is None:
        yield f"No run of {_which(asked)} is in its journal."
    else:
        yield run_text.headline(record)
        yield from _steps(record)
    if engine["status"] == "running":
        yield from _engine(engine, chosen)
    if holder:
        yield f"running now: {holder['application']} (server process {holder['pid']})"
    elif record is not None and record.status == "running":
        yield from run_text.wrapped(
            "nobody works on this run any more: its conductor died."
            f" `mandate run {chosen.name}` goes on with it.",
            "note: ",
        )
    if found is not None:
        yield from run_text.window(found, chosen)
    if record is not None:
        yield from _error(record)
        yield f"files: {run_text.short_path(record.directory)}"


def _engine(state: dict[str, Any], chosen: Migration) -> Iterator[str]:
    """Where the engine is in the migrating step."""
    yield from rekey_load.lines(state, again=f"mandate run {chosen.name}")


def _steps(record: RunRecord) -> Iterator[str]:
    for step in record.steps:
        yield from run_text.wrapped(_step(step), f"  {run_text.mark(step)} {step.name:<9} ")


def _step(step: StepRecord) -> str:
    if step.status == "running" and step.started_at:
        spent = (datetime.now(UTC) - step.started_at).total_seconds()
        left = f", ETA {seconds(max(0.0, step.planned_seconds - spent))}" if step.planned_seconds else ""
        return f"running for {seconds(spent)}{left}"
    took = f" [{seconds(step.seconds)}]" if step.seconds is not None else ""
    return f"{step.summary}{took}".strip() or step.status


def _error(record: RunRecord) -> Iterator[str]:
    for step in record.steps:
        if step.error:
            yield from run_text.wrapped(str(step.error["message"]), "why:  ")
            if step.error.get("hint"):
                yield from run_text.wrapped(str(step.error["hint"]), "next: ")


@options.command
def watch(
    migration: Which = None,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
) -> int:
    """Follow the newest run live until it ends; what PostgreSQL works on included."""
    asked = guarded.find(migration) if migration is not None else None
    target = resolve(options.load(config, {"database.dsn": dsn}))
    follower = _Follower(target, asked, format)
    while not follower.look():
        time.sleep(interval)
    return follower.exit_code


class _Follower:
    """Prints what is new at each look. A swap or a restart of the server only interrupts it."""

    def __init__(self, target: Target, asked: Migration | None, format: Format) -> None:
        self._target = target
        self._asked = asked
        self._format = format
        self._seen = 0
        self._run: str | None = None
        self._last_progress = ""
        self._last_engine: list[str] = []
        # None until the database was there once: before, a name may be mistyped.
        self._waiting: str | None = None
        self.exit_code = 0

    def look(self) -> bool:
        """True when there is nothing left to wait for."""
        try:
            with connect(self._target, application_name="mandate-watch") as session:
                self._waiting = ""
                return self._look(session)
        except DatabaseUnavailable as error:
            if self._waiting is None:
                raise
            if self._waiting != error.message:
                self._waiting = error.message
                self._say({"waiting": error.message}, f"waiting: {error.message}")
            return False

    def _look(self, session: Session) -> bool:
        chosen = _chosen(session, self._asked)
        record = journal.load_record(session, migration=chosen.name)
        if record is None:
            self._say({"run": None}, f"No run of {_which(self._asked)} is in the journal.")
            return True
        if record.run_id != self._run:
            self._run, self._seen = record.run_id, 0
        for event in journal.events(session, record.run_id, self._seen):
            self._seen = event["id"]
            self._event(event)
        self._progress(session)
        self._engine(session, chosen)
        self.exit_code = record.exit_code or 0
        return lock.holder(session) is None

    def _event(self, event: dict[str, Any]) -> None:
        at = event["at"].astimezone()
        prefix = f"{at:%H:%M:%S} {event['step'] or 'run':<9} {event['status']:<11} "
        self._say({"event": event}, "\n".join(run_text.wrapped(event["message"], prefix)))

    def _progress(self, session: Session) -> None:
        rows = session.rows(
            "SELECT a.pid, extract(epoch FROM now() - a.query_start)::float8 AS seconds,"
            " left(regexp_replace(a.query, '\\s+', ' ', 'g'), 60) AS query,"
            " coalesce(a.wait_event_type = 'Lock', false) AS waiting, pg_blocking_pids(a.pid) AS blockers"
            " FROM pg_stat_activity a WHERE a.datname = current_database() AND a.state = 'active'"
            " AND a.application_name LIKE 'mandate-run-%%-psql'",
            (),
        )
        for row in rows:
            wait = f" WAITS for process {row['blockers']}" if row["waiting"] else ""
            key = f"{row['query']}{wait}"
            if key != self._last_progress:
                self._last_progress = key
                self._say({"activity": row}, f"         process {row['pid']}{wait}: {row['query']}")

    def _engine(self, session: Session, chosen: Migration) -> None:
        """Where the engine is, said again when that has changed."""
        state = rekey_load.state(session, chosen.name)
        if state["status"] != "running":
            return
        lines = list(_engine(state, chosen))
        new = [line for line in lines if line not in self._last_engine]
        if new:
            self._say({"engine": state}, "\n".join(new))
        self._last_engine = lines

    def _say(self, data: dict[str, Any], text: str) -> None:
        output.emit(self._format, "watch", data, lambda: text)
        output.flush()


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(status)
    app.command()(watch)
