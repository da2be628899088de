"""Rollback from a backup as a run: stop, restore beside, export, ask, swap, verify, restart, record."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mandate.errors import MandateError, NeedsPerson
from mandate.postgres import lock
from mandate.postgres.connection import Session, connect
from mandate.runbook import conduct, guarded, journal, migrations, restore
from mandate.runbook.checklist import checklist, criteria
from mandate.runbook.record import RunRecord, StepRecord
from mandate.runbook.report import source
from mandate.runbook.scratch import Work
from mandate.runbook.step import Context, Step
from mandate.runbook.steps import s10_stop, s80_restart
from mandate.runbook.written_since import Loss

STEP_NAME = "rollback"

Approve = Callable[[Loss], bool]


@dataclass(frozen=True)
class Request:
    """What to go back to. `archive` None: the backup of the newest run."""

    conduct: conduct.Request
    archive: Path | None
    approve: Approve


def from_backup(request: Request, watcher: conduct.Watcher) -> conduct.Result:
    """Roll back; the record of the run it undoes, with a step `rollback` at its end.

    Raises RunLocked, NotMandate and NeedsPerson before anything is begun. Run again after a crash it goes
    on where it was.
    """
    run_name = f"mandate-rollback on {platform.node()} pid {os.getpid()}"
    target = request.conduct.target
    restore.reopen(target)
    with ExitStack() as stack:
        session = stack.enter_context(lock.held(target, run_name, wait_seconds=request.conduct.wait_seconds))
        migrations.require_supported(session)
        migration = request.conduct.migration
        # What is there may be no Mandate database any more: that is what a backup is for.
        guarded.require_last(migrations.schema_version(session) or 0, migration)
        latest = journal.load_record(session, migration=migration.name)
        if latest is not None and latest.status == "rolled-back" and request.archive is None:
            restored = _not_restarted(latest)
            if restored is None:
                return conduct.Result(latest, nothing=f"run {latest.run_id} is rolled back already")
            return _Rollback(request, watcher, latest, restored, stack).run(session)
        record = to_undo(request.conduct, session, latest)
        archive = _archive(request, record)
        return _Rollback(request, watcher, record, archive, stack).run(session)


def _not_restarted(record: RunRecord) -> Path | None:
    """The backup that is in use, when the services were not started again after that."""
    last = record.steps[-1] if record.steps else None
    if last is None or last.name != STEP_NAME or last.evidence.get("method") == "engine":
        return None
    return None if "restarted" in last.evidence else Path(str(last.evidence.get("backup")))


def to_undo(request: conduct.Request, session: Session, latest: RunRecord | None) -> RunRecord:
    """The run to undo; without one (the file was run by hand) a record of the rollback alone."""
    if latest is None or latest.status == "rolled-back":
        return replace(conduct.new_record(request, session), steps=())
    known = _from_file(latest)
    steps = tuple(step for step in known.steps if step.name != STEP_NAME)
    return replace(known, steps=tuple(map(_as_left, steps)))


def _from_file(latest: RunRecord) -> RunRecord:
    """The run as its run.json has it.

    A rollback killed right after the swap finds a journal from before the backup: the file knows more.
    """
    path = Path(latest.directory) / "run.json"
    if not path.is_file():
        return latest
    written = source.read(path)
    return written if written.run_id == latest.run_id else latest


def _as_left(step: StepRecord) -> StepRecord:
    """A step that its conductor did not live to end."""
    return replace(step, status="interrupted") if step.status == "running" else step


def _archive(request: Request, record: RunRecord) -> Path:
    if request.archive is not None:
        candidates = [request.archive]
    else:
        taken = record.step("backup")
        name = str(taken.evidence.get("file")) if taken and taken.evidence.get("file") else None
        backups = request.conduct.settings.backup.directory.absolute()
        candidates = [Path(record.directory) / name, backups / name] if name else []
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        looked = ", ".join(map(str, candidates)) or "the journal, which knows of no backup"
        raise NeedsPerson(
            f"there is no backup to go back to (looked at {looked})",
            hint=f"name one: mandate rollback {request.conduct.migration.name} --file FILE",
        )
    return found


class _Rollback:
    def __init__(
        self,
        request: Request,
        watcher: conduct.Watcher,
        record: RunRecord,
        archive: Path,
        locks: ExitStack,
    ) -> None:
        self._request = request
        self._watcher = watcher
        self._record = record
        self._archive = archive
        self._locks = locks
        self._step = StepRecord(
            name=STEP_NAME,
            title="Rollback from the backup",
            guide="rollback",
            critical=True,
            status="running",
            started_at=datetime.now(UTC),
            attempts=1,
        )

    def run(self, session: Session) -> conduct.Result:
        Path(self._record.directory).mkdir(parents=True, exist_ok=True)
        self._watcher.started(self._record, "Rolling back", f"asked to go back to {self._archive.name}")
        self._watcher.step_started(self._step)
        journal.ensure(session)
        try:
            evidence = self._act()
        except MandateError as error:
            return self._failed(error)
        return self._done(evidence)

    def _act(self) -> dict[str, Any]:
        restored = self._record.status == "rolled-back"
        evidence = dict(self._record.steps[-1].evidence) if restored else self._restore()
        evidence["restarted"] = self._play(s80_restart.STEP)
        return evidence

    def _restore(self) -> dict[str, Any]:
        stopped = self._play(s10_stop.STEP)
        evidence = restore.rollback_from_backup(
            restore.Rollback(
                work=Work.of(self._context()),
                archive=self._archive,
                approve=self._request.approve,
                release=self._locks.close,
                ignore=self._request.conduct.settings.services.ignore_applications,
            )
        )
        evidence["stopped"] = stopped
        self._take_over(evidence)
        return evidence

    def _play(self, step: Step) -> str:
        """A step of the guide, as part of this one."""
        outcome = step.run(self._context())
        self._watcher.reporter.line(f"           {step.name}: {outcome.summary}")
        return outcome.summary

    def _take_over(self, evidence: dict[str, Any]) -> None:
        """The restored database gets the journal of what happened since it was backed up."""
        rolled_back = replace(self._record, status="rolled-back", exit_code=8, finished_at=datetime.now(UTC))
        self._record = replace(rolled_back, steps=(*self._record.steps, self._ended("passed", evidence)))
        with connect(self._request.conduct.target, application_name="mandate-rollback") as session:
            migrations.forget(session, self._request.conduct.migration.version)
            journal.import_record(session, self._record)

    def _ended(self, status: Any, evidence: dict[str, Any]) -> StepRecord:
        rows = sum(evidence.get("written_since", {}).values())
        summary = (
            f"back at version {evidence['schema_version']}; the database as it was is kept as"
            f" {evidence['database_kept']}; {rows:,} rows written since were exported"
        )
        return replace(
            self._step, status=status, finished_at=datetime.now(UTC), summary=summary, evidence=evidence
        )

    def _done(self, evidence: dict[str, Any]) -> conduct.Result:
        step = self._ended("passed", evidence)
        record = replace(self._record, steps=(*self._record.steps[:-1], step), finished_at=datetime.now(UTC))
        self._record = replace(record, checklist=checklist(record), criteria=criteria(record))
        with connect(self._request.conduct.target, application_name="mandate-rollback") as session:
            journal.import_record(session, self._record)
        journal.write_run_file(self._record)
        self._watcher.step_ended(step)
        return conduct.Result(self._record)

    def _failed(self, error: MandateError) -> conduct.Result:
        """The run keeps its state: a rollback that did not happen undoes nothing."""
        swapped = self._record.status == "rolled-back"
        step = replace(
            self._record.steps[-1] if swapped else self._step,
            status="failed",
            finished_at=datetime.now(UTC),
            error=error.as_dict(),
            summary=error.message,
        )
        self._watcher.step_ended(step)
        steps = self._record.steps[:-1] if swapped else self._record.steps
        self._record = replace(self._record, steps=(*steps, step), exit_code=error.exit_code)
        journal.write_run_file(self._record)
        return conduct.Result(self._record, error)

    def _context(self) -> Context:
        return conduct.context(self._request.conduct, self._record, self._watcher.reporter)
