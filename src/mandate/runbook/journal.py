"""The journal: where every run stands, in the database it is about, in a schema of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mandate.postgres.connection import Jsonb, Row, Session
from mandate.runbook import modes
from mandate.runbook.record import RunRecord, RunStatus, StepRecord

SCHEMA_SQL = Path(__file__).parent / "sql" / "journal.sql"


def encode(value: Any) -> str:
    """Evidence as JSON text; paths, dates, UUIDs and decimals become strings."""
    return json.dumps(value, default=str, ensure_ascii=False)


def exists(session: Session) -> bool:
    """Whether this database has a journal."""
    return session.value("SELECT to_regclass('mandate_conductor.runs') IS NOT NULL") is True


def ensure(session: Session) -> None:
    """Create what is missing of the journal."""
    with session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(hashtextextended('mandate_conductor.journal', 0))")
        session.execute(SCHEMA_SQL.read_bytes())


class Journal:
    """The journal of one run, written through one session. Every write is its own transaction."""

    def __init__(self, session: Session, run_id: str) -> None:
        self.session = session
        self.run_id = run_id

    def open(self, record: RunRecord) -> None:
        """Record a new run and its pending steps; a run that is there already is replaced."""
        ensure(self.session)
        with self.session.transaction():
            self._upsert_run(record)
            for ordinal, step in enumerate(record.steps):
                self._upsert_step(ordinal, step)
            self._event(None, record.status, "journal opened")

    def load(self) -> RunRecord:
        """The run as it stands."""
        found = load_record(self.session, run_id=self.run_id)
        if found is None:
            raise LookupError(f"run {self.run_id} is not in the journal")
        return found

    def step(self, ordinal: int, step: StepRecord, message: str = "") -> None:
        """Write where a step stands."""
        with self.session.transaction():
            self._upsert_step(ordinal, step)
            self._event(step.name, step.status, message or step.summary)

    def close(self, status: RunStatus, exit_code: int, at: datetime, message: str = "") -> None:
        """The run ended, for now or for good."""
        with self.session.transaction():
            self.session.execute(
                "UPDATE mandate_conductor.runs SET status = %s, exit_code = %s, finished_at = %s"
                " WHERE run_id = %s",
                (status, exit_code, at, self.run_id),
            )
            self._event(None, status, message)

    def _upsert_run(self, record: RunRecord) -> None:
        self.session.execute(
            "INSERT INTO mandate_conductor.runs (run_id, migration, title, mode, database, server_version,"
            " mandate_version, host, operator, pid, directory, status, exit_code, started_at, finished_at)"
            " VALUES (%(run_id)s, %(migration)s, %(title)s, %(mode)s, %(database)s, %(server_version)s,"
            " %(mandate_version)s, %(host)s, %(operator)s, %(pid)s, %(directory)s, %(status)s,"
            " %(exit_code)s, %(started_at)s, %(finished_at)s)"
            " ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, pid = excluded.pid,"
            " exit_code = excluded.exit_code, finished_at = excluded.finished_at",
            {**_run_fields(record), "pid": os.getpid()},
        )

    def _upsert_step(self, ordinal: int, step: StepRecord) -> None:
        self.session.execute(
            "INSERT INTO mandate_conductor.steps AS s (run_id, ordinal, name, title, guide, critical, status,"
            " planned_seconds, started_at, finished_at, summary, evidence, warnings, error, attempts)"
            " VALUES (%(run_id)s, %(ordinal)s, %(name)s, %(title)s, %(guide)s, %(critical)s, %(status)s,"
            " %(planned_seconds)s, %(started_at)s, %(finished_at)s, %(summary)s, %(evidence)s, %(warnings)s,"
            " %(error)s, %(attempts)s)"
            " ON CONFLICT (run_id, name) DO UPDATE SET status = excluded.status,"
            " planned_seconds = excluded.planned_seconds, started_at = excluded.started_at,"
            " finished_at = excluded.finished_at, summary = excluded.summary, evidence = excluded.evidence,"
            " warnings = excluded.warnings, error = excluded.error, attempts = excluded.attempts",
            {
                **_step_fields(step),
                "run_id": self.run_id,
                "ordinal": ordinal,
            },
        )

    def _event(self, step: str | None, status: str, message: str) -> None:
        self.session.execute(
            "INSERT INTO mandate_conductor.events (run_id, step, status, message) VALUES (%s, %s, %s, %s)",
            (self.run_id, step, status, message),
        )


def load_record(
    session: Session, *, migration: str | None = None, run_id: str | None = None
) -> RunRecord | None:
    """The named run, else the newest run of `migration`; None when there is none."""
    if not exists(session):
        return None
    run = session.row(
        "SELECT * FROM mandate_conductor.runs"
        " WHERE (%(run)s::text IS NULL OR run_id = %(run)s) AND (%(m)s::text IS NULL OR migration = %(m)s)"
        " ORDER BY started_at DESC, run_id DESC LIMIT 1",
        {"run": run_id, "m": migration},
    )
    if run is None:
        return None
    steps = session.rows(
        "SELECT * FROM mandate_conductor.steps WHERE run_id = %s ORDER BY ordinal", (run["run_id"],)
    )
    return _record(run, steps)


def import_record(session: Session, record: RunRecord) -> None:
    """Write a whole run into this database's journal (after a restore brought an older one back)."""
    Journal(session, record.run_id).open(record)


def events(session: Session, run_id: str, after: int = 0) -> list[Row]:
    """What happened to a run, oldest first: id, step, status, message, at."""
    return session.rows(
        "SELECT id, step, status, message, at FROM mandate_conductor.events"
        " WHERE run_id = %s AND id > %s ORDER BY id",
        (run_id, after),
    )


def write_run_file(record: RunRecord) -> Path:
    """run.json in the run's directory, replaced atomically."""
    path = Path(record.directory) / "run.json"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(record.as_dict(), default=str, ensure_ascii=False), "utf-8")
    temporary.replace(path)
    return path


def _run_fields(record: RunRecord) -> Mapping[str, Any]:
    names = (
        "run_id migration title mode database server_version mandate_version host operator directory"
        " status exit_code started_at finished_at"
    )
    return {name: getattr(record, name) for name in names.split()}


def _step_fields(step: StepRecord) -> Mapping[str, Any]:
    return {
        "name": step.name,
        "title": step.title,
        "guide": step.guide,
        "critical": step.critical,
        "status": step.status,
        "planned_seconds": step.planned_seconds,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
        "summary": step.summary,
        "evidence": Jsonb(step.evidence, dumps=encode),
        "warnings": Jsonb(list(step.warnings), dumps=encode),
        "error": Jsonb(step.error, dumps=encode) if step.error is not None else None,
        "attempts": step.attempts,
    }


def _record(run: Row, steps: Sequence[Row]) -> RunRecord:
    known = {key: value for key, value in run.items() if key != "pid"}
    last = modes.point_of_no_return(run["mode"])
    return RunRecord(**known, steps=tuple(_step(row) for row in steps), point_of_no_return=last)


def _step(row: Row) -> StepRecord:
    fields = {key: value for key, value in row.items() if key not in ("run_id", "ordinal")}
    return replace(StepRecord(**fields), warnings=tuple(row["warnings"]))
