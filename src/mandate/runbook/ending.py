"""The two ends of a reverse window, as steps of the run that opened it: rollback without loss, finalize."""

from __future__ import annotations

import os
import platform
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mandate.errors import (
    AwaitingApproval,
    DatabaseError,
    MandateError,
    NeedsPerson,
    VerificationFailed,
)
from mandate.postgres import lock
from mandate.postgres.connection import Session
from mandate.rekey import journal as engine_journal
from mandate.runbook import (
    checks,
    conduct,
    engine_run,
    guarded,
    journal,
    migrations,
    modes,
    rollback,
    window,
)
from mandate.runbook.checklist import checklist, criteria
from mandate.runbook.migration import Migration
from mandate.runbook.record import RunRecord, StepRecord
from mandate.runbook.step import Context, Step
from mandate.runbook.steps import s10_stop, s80_restart
from mandate.runbook.window import Window

FINALIZE = "finalize"

_BACK = "asked to go back to version {}, with everything written since"
# Where a step's own line has its text.
_UNDER_A_STEP = 11

Approve = Callable[[Window], bool]


@dataclass(frozen=True)
class Request:
    """What to end. `online` None: services stay up if the run kept them up."""

    conduct: conduct.Request
    approve: Approve
    online: bool | None = None


def lossless(request: Request, watcher: conduct.Watcher) -> conduct.Result:
    """Bring the old version back with everything written since; the run's record, with a step `rollback`.

    Raises RunLocked, NotMandate, NeedsPerson (there is no window to go back through), AwaitingApproval
    before anything is begun. Run again after a crash it goes on where it was, and to the end.
    """
    migration = request.conduct.migration
    with _held(request, "rollback") as held:
        guarded.require_last(held.version, migration)
        state, back = _change_status(held.session, migration), held.version < migration.version
        undone = held.latest if held.latest is not None and held.latest.status == "rolled-back" else None
        # One that did not live to record it may have left the services stopped.
        cut_short = undone is not None and undone.step(_RollBack.name) is None and state == "rolled back"
        if undone is not None and back and not cut_short:
            return conduct.Result(undone, nothing=f"run {undone.run_id} is rolled back already")
        if state not in ("swapped", "rolled back") or (state == "rolled back" and not back):
            raise _no_way_back(state, migration, held.version)
        _ask(request, held.session)
        record = undone if undone and cut_short else None
        record = record or rollback.to_undo(request.conduct, held.session, held.latest)
        work = _RollBack(_in_mode(request, record), watcher, record, held.session)
        return work.run("Rolling back", _BACK.format(migration.before))


def finalize(request: Request, watcher: conduct.Watcher) -> conduct.Result:
    """End the window: drop the old version's tables; the run's record, with a step `finalize`.

    Raises as `lossless` does; NeedsPerson too when the run is not complete.
    """
    migration = request.conduct.migration
    with _held(request, "finalize") as held:
        state, latest = _change_status(held.session, migration), held.latest
        cut_short = state == "finalized" and _not_recorded(held, migration)
        if state == "finalized" and held.version >= migration.version and not cut_short:
            return conduct.Result(latest, nothing=f"migration {migration.name} is finalized already")
        if state != "swapped" and not cut_short:
            stands = "was not run by the engine" if state is None else f"is {state}"
            raise NeedsPerson(
                f"there is no reverse window to end: {migration.name} {stands}",
                hint="`mandate status` says where it stands",
            )
        if latest is not None and latest.status != "complete":
            raise NeedsPerson(
                f"run {latest.run_id} is not complete: after finalize there is no way back from it",
                hint=f"`mandate run {migration.name}` goes on with it; `mandate rollback {migration.name}`"
                " goes back",
            )
        _ask(request, held.session)
        record = rollback.to_undo(request.conduct, held.session, latest)
        work = _Finalize(_in_mode(request, record), watcher, record, held.session)
        return work.run("Finalizing", f"asked to drop version {migration.before}'s tables")


@dataclass(frozen=True)
class _Held:
    """A database that this process holds."""

    session: Session
    version: int
    latest: RunRecord | None


@contextmanager
def _held(request: Request, what: str) -> Iterator[_Held]:
    """Hold the database of a request. Raises RunLocked, NotMandate."""
    name = f"mandate-{what} on {platform.node()} pid {os.getpid()}"
    asked = request.conduct
    with lock.held(asked.target, name, wait_seconds=asked.wait_seconds) as session:
        engine_run.end_orphans(session, asked.migration)
        version = conduct.require_version(session)
        yield _Held(session, version, journal.load_record(session, migration=asked.migration.name))


def _change_status(session: Session, migration: Migration) -> str | None:
    change = engine_journal.load(session, migration.name)
    return change.status if change else None


def _not_recorded(held: _Held, migration: Migration) -> bool:
    """Whether the newest run was finalized without a record, or without the verification after it."""
    run = held.latest
    return (
        held.version == migration.version
        and run is not None
        and run.status == "complete"
        and modes.by_engine(run.mode)
        and run.step(FINALIZE) is None
    )


def _no_way_back(state: str | None, migration: Migration, version: int) -> NeedsPerson:
    name, before = migration.name, migration.before
    if version < migration.version:
        hint = f"`mandate abort {name}` drops what was built beside it" if state == "running" else None
        return NeedsPerson(f"there is nothing to roll back: version {version} is in use", hint=hint)
    why = {
        None: f"{name} was run as plain SQL, which keeps no old tables",
        "finalized": f"{name} was finalized, which dropped version {before}'s tables",
    }.get(state, f"the engine's change is {state}, and version {migration.version} is in use")
    return NeedsPerson(
        f"there is no way back without loss: {why}",
        hint=f"`mandate rollback {name} --from-backup` restores the backup; what was written since is"
        " exported",
    )


def _ask(request: Request, session: Session) -> None:
    found = window.look(session, request.conduct.migration)
    if found is not None and not request.approve(found):
        raise AwaitingApproval("not approved: nothing was changed", hint="--yes answers the question")


def _in_mode(request: Request, record: RunRecord) -> conduct.Request:
    """The engine with the services as they were in the run, unless told otherwise."""
    online = record.mode == modes.ONLINE if request.online is None else request.online
    return conduct.in_mode(request.conduct, modes.ONLINE if online else modes.ENGINE)


class _End:
    """One step that is added to the record of a run."""

    name: str
    title: str = ""

    def __init__(
        self, request: conduct.Request, watcher: conduct.Watcher, record: RunRecord, session: Session
    ) -> None:
        self._request, self._watcher, self._session = request, watcher, session
        self._migration = request.migration
        steps = tuple(step for step in record.steps if step.name != self.name)
        self._record = replace(record, steps=steps)
        self._step = StepRecord(
            name=self.name,
            title=self.title or f"Drop version {self._migration.before}'s tables",
            guide="",
            critical=True,
            status="running",
            started_at=datetime.now(UTC),
            attempts=1,
        )

    def act(self, context: Context) -> tuple[str, Mapping[str, Any]]:
        """Do it; a line for a person, and the evidence."""
        raise NotImplementedError

    def ended(self, record: RunRecord) -> RunRecord:
        """The record of a run that this has ended."""
        return record

    def run(self, verb: str, because: str) -> conduct.Result:
        conduct.make_directory(Path(self._record.directory))
        self._watcher.started(self._record, verb, because)
        self._watcher.step_started(self._step)
        try:
            summary, evidence = self.act(self._context())
        except MandateError as error:
            return self._failed(error)
        step = replace(
            self._step,
            status="passed",
            finished_at=datetime.now(UTC),
            summary=summary,
            evidence=evidence,
        )
        self._keep(self.ended(replace(self._record, steps=(*self._record.steps, step))))
        self._watcher.step_ended(step)
        return conduct.Result(self._record)

    def play(self, step: Step) -> str:
        """A step of the guide, as part of this one."""
        outcome = step.run(self._context())
        for line in textwrap.wrap(f"{step.name}: {outcome.summary}", 80 - _UNDER_A_STEP):
            self._watcher.reporter.line(" " * _UNDER_A_STEP + line)
        return outcome.summary

    def _context(self) -> Context:
        return conduct.context(self._request, self._record, self._watcher.reporter)

    def _keep(self, record: RunRecord) -> None:
        self._record = replace(record, checklist=checklist(record), criteria=criteria(record))
        with self._context().session() as session:
            journal.import_record(session, self._record)
        journal.write_run_file(self._record)

    def _failed(self, error: MandateError) -> conduct.Result:
        step = replace(
            self._step,
            status="failed",
            finished_at=datetime.now(UTC),
            summary=error.message,
            error=error.as_dict(),
        )
        self._watcher.step_ended(step)
        self._record = replace(self._record, steps=(*self._record.steps, step), exit_code=error.exit_code)
        journal.write_run_file(self._record)
        return conduct.Result(self._record, error)


class _RollBack(_End):
    name = rollback.STEP_NAME
    title = "Rollback without loss"

    def act(self, context: Context) -> tuple[str, Mapping[str, Any]]:
        behind = window.look(self._session, self._migration)
        stopped = None if context.services_up else self.play(s10_stop.STEP)
        evidence = engine_run.roll_back(self._context())
        before = self._migration.before
        # The database is back, whatever becomes of the services: a crash from here on must not undo that.
        with suppress(DatabaseError):
            journal.Journal(self._session, self._record.run_id).close(
                "rolled-back",
                8,
                datetime.now(UTC),
                f"version {before} is back, with everything written since",
            )
        restarted = None if context.services_up else self.play(s80_restart.STEP)
        waited = evidence.get("blocked_milliseconds")
        text = f"back at version {before}, with everything that was written since"
        text += "" if waited is None else f"; tables were locked for {waited:.0f} ms"
        figures = {
            **evidence,
            "method": "engine",
            "behind": behind.behind if behind else None,
            "schema_version": migrations.require_version(self._session),
            "stopped": stopped,
            "restarted": restarted,
        }
        return text, figures

    def ended(self, record: RunRecord) -> RunRecord:
        return replace(record, status="rolled-back", exit_code=8, finished_at=datetime.now(UTC))


class _Finalize(_End):
    name = FINALIZE

    def act(self, context: Context) -> tuple[str, Mapping[str, Any]]:
        migration = self._migration
        before, dropped = window.look(self._session, migration), window.tables(self._session, migration)
        evidence = engine_run.engine(context).finalize()
        report = checks.run(self._session, migration.verification, context.reporter)
        checks.clean_up(self._session)
        figures = {**evidence, **report.as_evidence()}
        if before is not None:
            figures |= {"bytes_freed": before.bytes, "dropped": dropped}
        if not report.passed:
            names = ", ".join(check.id for check in report.failing())
            raise VerificationFailed(
                f"finalized, and the verification failed: {names}",
                hint=f"`mandate diagnose {migration.name}` shows the rows",
                evidence=figures,
            )
        text = (
            f"finalized: version {migration.before}'s {len(dropped)} tables dropped,"
            f" {before.bytes / (1 << 20):,.1f} MiB given back"
            if before is not None
            else f"finalized: version {migration.before}'s tables were dropped before it was interrupted"
        )
        return f"{text}; version {migration.version} verified once more", figures
