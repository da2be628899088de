"""The conductor's loop: lock, decide, run a step, record it, until done or stopped."""

from __future__ import annotations

import errno
import getpass
import os
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mandate
from mandate.errors import (
    AwaitingApproval,
    DatabaseError,
    DiskFull,
    MandateError,
    NeedsPerson,
    OutcomeUnknown,
    ProgramError,
    Terminated,
    UsageError,
)
from mandate.postgres import lock
from mandate.postgres.connection import Session, Target, connect
from mandate.progress import Reporter
from mandate.runbook import (
    backup_state,
    engine_run,
    guarded,
    journal,
    migrations,
    modes,
    next_action,
    questions,
    rehearsals,
)
from mandate.runbook.checklist import checklist, criteria
from mandate.runbook.migration import Migration
from mandate.runbook.modes import Mode
from mandate.runbook.record import RunRecord, RunStatus, StepRecord
from mandate.runbook.step import Context, Options, Outcome, Step
from mandate.settings import Settings

INTERRUPTED = 130
FREE_SPACE = "free disk space, then run again"
CRITICAL = frozenset({"stop", "backup", "check", "migrate", "verify", "probe", "restart"})


@dataclass(frozen=True)
class Request:
    """What the command line asks of a run. `mode` None: as it began, else the default.

    `rehearsal`: of the migration on a copy alone, recorded under a name of its own.
    """

    migration: Migration
    target: Target
    settings: Settings
    options: Options
    steps: Sequence[Step]
    first: str | None = None
    last: str | None = None
    leave_out: frozenset[str] = frozenset()
    wait_seconds: float = 3.0
    mode: Mode | None = None
    rehearsal: bool = False

    @property
    def name(self) -> str:
        """What the journal calls it."""
        return self.migration.rehearsal if self.rehearsal else self.migration.name

    @property
    def title(self) -> str:
        """For a person."""
        return f"Rehearsal of {self.migration.title}" if self.rehearsal else self.migration.title


@dataclass(frozen=True)
class Watcher:
    """Who is told about a run, and who is asked.

    `started` gets the record, what happens to it ("Starting", ...) and why; `approve` answers a go/no-go
    question.
    """

    reporter: Reporter
    approve: Callable[[str, str], bool]
    started: Callable[[RunRecord, str, str], None]
    step_started: Callable[[StepRecord], None]
    step_ended: Callable[[StepRecord], None]


@dataclass(frozen=True)
class Result:
    """How it went: the record as it stands, and the error that stopped it. Neither: nothing to do."""

    record: RunRecord | None
    error: MandateError | None = None
    nothing: str | None = None


def run(request: Request, watcher: Watcher) -> Result:
    """Begin or resume the run of this database, and take it as far as it goes.

    Raises RunLocked, NotMandate, UnsupportedServer, EditedMigration, UsageError and NeedsPerson before
    anything is begun; what stops a run that has begun is in the result.
    """
    run_name = f"mandate-run on {platform.node()} pid {os.getpid()}"
    with lock.held(request.target, run_name, wait_seconds=request.wait_seconds) as session:
        engine_run.end_orphans(session, request.migration)
        latest = journal.load_record(session, migration=request.name)
        version = require_version(session)
        action = decide(request, session, latest, version)
        if isinstance(action, next_action.Nothing):
            return Result(latest, nothing=action.because)
        before: frozenset[str] = frozenset()
        if isinstance(action, next_action.Resume) and goes_on(action.record, request, session):
            request = in_mode(request, modes.parse(action.record.mode))
            record, because = _resume(action, request, watcher.reporter), action.because
            before = next_action.passed_steps(latest)
        else:
            request = in_mode(request, request.mode or modes.DEFAULT)
            record, because = new_record(request, session), ""
        record = next_action.leave_out(record, request.leave_out)
        record, wanted = next_action.restrict(record, request.first, request.last, before)
        return _Conductor(request, watcher, session, record, wanted, version).conduct(because)


def decide(
    request: Request, session: Session, latest: RunRecord | None, version: int
) -> next_action.Begin | next_action.Resume | next_action.Nothing:
    """What a run does next. Raises NeedsPerson when that is for a person, or another migration's turn."""
    action = next_action.decide(latest, version, request.migration)
    if isinstance(action, next_action.Refuse):
        raise action.error
    if version == request.migration.before:
        guarded.require_turn(session, request.migration)
    return action


def require_version(session: Session) -> int:
    """The schema version of a database that a run may touch.

    Raises UnsupportedServer, EditedMigration, NotMandate.
    """
    migrations.require_supported(session)
    migrations.verify_unedited(session)
    return migrations.require_version(session)


def in_mode(request: Request, chosen: Mode) -> Request:
    """The request with a mode that is decided."""
    return replace(request, mode=chosen, options=replace(request.options, mode=chosen))


def goes_on(record: RunRecord, request: Request, session: Session) -> bool:
    """Whether to go on with a run rather than begin another.

    Another release may have other steps; another mode was asked for. Raises UsageError when that comes too
    late: something of the migration is in the database.
    """
    if [step.name for step in record.steps] != [step.name for step in request.steps]:
        return False
    if request.mode in (None, record.mode):
        return True
    if not engine_run.under_way(session, request.migration) and not _migrated(record):
        return False
    raise UsageError(
        f"run {record.run_id} began {modes.words(record.mode)}, and its work is in the database",
        hint=f"`mandate run {request.migration.name}` without that flag goes on with it;"
        f" `mandate abort {request.migration.name}` drops what it built, then it can begin another way",
    )


def _resume(action: next_action.Resume, request: Request, reporter: Reporter) -> RunRecord:
    """The record to go on with; a backup that no longer holds what the database holds is made again."""
    record = action.record
    backup = record.step("backup")
    if backup is None or backup.status != "passed" or _migrated(record):
        return record
    stale = backup_state.why_stale(
        request.target,
        Path(record.directory),
        backup.evidence,
        rows_may_differ=record.mode == modes.ONLINE,
    )
    if stale is None:
        return record
    reporter.line(f"the backup of this run is made again: {stale}")
    redo = {"backup", "rehearse"}
    steps = tuple(next_action.pending(s) if s.name in redo else s for s in record.steps)
    return replace(record, steps=steps)


def _migrated(record: RunRecord) -> bool:
    step = record.step("migrate")
    return step is not None and step.status == "passed"


def new_record(request: Request, session: Session) -> RunRecord:
    """A run that has not begun: every step pending, times from the newest rehearsal."""
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    mode = request.mode or modes.DEFAULT
    planned = rehearsals.seconds(session, request.migration, mode)
    return RunRecord(
        run_id=run_id,
        migration=request.name,
        title=request.title,
        mode=mode,
        database=str(request.target),
        server_version=str(session.value("SHOW server_version")),
        mandate_version=mandate.__version__,
        host=platform.node(),
        operator=_operator(),
        started_at=now,
        finished_at=None,
        status="running",
        exit_code=None,
        directory=str((request.settings.run.directory / f"{request.name}-{run_id}").absolute()),
        steps=tuple(_pending_step(step, request, planned) for step in request.steps),
        point_of_no_return=modes.point_of_no_return(mode),
    )


def _pending_step(step: Step, request: Request, planned: Mapping[str, float]) -> StepRecord:
    return StepRecord(
        name=step.name,
        title=step.title,
        guide=step.guide,
        critical=step.name in CRITICAL,
        status="pending",
        planned_seconds=planned.get(step.name),
    )


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


class _Conductor:
    def __init__(
        self,
        request: Request,
        watcher: Watcher,
        session: Session,
        record: RunRecord,
        wanted: frozenset[str],
        version: int,
    ) -> None:
        self._request = request
        self._watcher = watcher
        self._journal = journal.Journal(session, record.run_id)
        self._record = record
        self._wanted = wanted
        self._migrated = version == request.migration.version
        self._run_file_kept = True

    def conduct(self, because: str) -> Result:
        make_directory(Path(self._record.directory))
        self._record = replace(self._record, status="running", exit_code=None, finished_at=None)
        self._journal.open(self._record)
        self._watcher.started(self._record, "Resuming" if because else "Starting", because)
        error = self._steps()
        self._finish(error)
        return Result(self._record, error)

    def _steps(self) -> MandateError | None:
        for place, step in enumerate(self._request.steps):
            state = self._record.steps[place]
            if state.status in ("passed", "skipped") or step.name not in self._wanted:
                continue
            try:
                self._approve(step)
                self._run_step(place, step)
            except MandateError as error:
                return error
            except (KeyboardInterrupt, Terminated) as stop:
                self._close("interrupted", getattr(stop, "exit_code", INTERRUPTED), "interrupted")
                raise
            except Exception as bug:
                self._close("failed", MandateError.exit_code, f"{step.name}: {bug!r}")
                raise
        return None

    def _approve(self, step: Step) -> None:
        question = questions.before(step.name, self._record, self._request.settings.services.kind)
        if question is None or self._found_done(step) or self._request.options.assume_yes:
            return
        if not self._watcher.approve(step.name, question):
            raise AwaitingApproval(
                f"stopped before {step.name}: not approved",
                hint=f"`mandate run {self._record.migration} --yes` goes on from here without asking",
                step=step.name,
            )

    def _found_done(self, step: Step) -> bool:
        return step.name == "migrate" and self._migrated

    def _run_step(self, place: int, step: Step) -> None:
        state = self._record.steps[place]
        state = replace(
            state,
            status="running",
            started_at=datetime.now(UTC),
            finished_at=None,
            attempts=state.attempts + 1,
            planned_seconds=state.planned_seconds or self._planned().get(step.name),
        )
        try:
            self._put(place, state)
            self._watcher.step_started(state)
            outcome = step.run(self._context())
        except (MandateError, OSError) as error:
            failure = as_step_error(error, step)
            self._stopped(place, state, failure)
            raise failure from failure.__cause__
        except (KeyboardInterrupt, Terminated):
            self._stopped(place, state, None)
            raise
        except Exception as bug:
            self._stopped(place, state, MandateError(f"{step.name}: internal error, {bug!r}"))
            raise
        else:
            self._passed(place, state, outcome)

    def _passed(self, place: int, state: StepRecord, outcome: Outcome) -> None:
        state = replace(
            state,
            status="skipped" if outcome.skipped else "passed",
            finished_at=datetime.now(UTC),
            summary=outcome.summary,
            evidence=outcome.evidence,
            warnings=outcome.warnings,
            error=None,
        )
        self._put(place, state)
        self._watcher.step_ended(state)

    def _stopped(self, place: int, state: StepRecord, error: MandateError | None) -> None:
        state = replace(
            state,
            status="interrupted" if error is None else "failed",
            finished_at=datetime.now(UTC),
            summary=error.message if error else "interrupted",
            evidence=error.fields.get("evidence", state.evidence) if error else state.evidence,
            error=_without_evidence(error) if error else None,
        )
        # run.json has it by now; when the server is away the journal row stays "running", which the
        # next run reads as what it is: a run that ended without saying so.
        with suppress(DatabaseError):
            self._put(place, state)
        self._watcher.step_ended(state)

    def _finish(self, error: MandateError | None) -> None:
        if isinstance(error, AwaitingApproval):
            self._close("waiting", error.exit_code, error.message)
        elif error is not None:
            self._close("failed", error.exit_code, error.message)
        elif all(step.status in ("passed", "skipped") for step in self._record.steps):
            self._close("complete", 0, "complete")
        else:
            self._close("waiting", 0, "stopped where --to said")

    def _close(self, status: RunStatus, exit_code: int, message: str) -> None:
        at = datetime.now(UTC)
        record = replace(self._record, status=status, exit_code=exit_code, finished_at=at)
        self._record = replace(record, checklist=checklist(record), criteria=criteria(record))
        self._keep_run_file()
        try:
            self._journal_write(lambda: self._journal.close(status, exit_code, at, message))
        except DatabaseError:
            if exit_code == 0:
                raise

    def _keep_run_file(self) -> None:
        """run.json is a copy of the journal: that it cannot be written changes nothing about the run."""
        try:
            journal.write_run_file(self._record)
        except OSError as error:
            if self._run_file_kept:
                self._watcher.reporter.line(f"run.json cannot be written: {describe(error)}")
            self._run_file_kept = False

    def _put(self, place: int, state: StepRecord) -> None:
        steps = (*self._record.steps[:place], state, *self._record.steps[place + 1 :])
        self._record = replace(self._record, steps=steps)
        self._keep_run_file()
        self._journal_write(lambda: self._journal.step(place, state))

    def _journal_write(self, write: Callable[[], None]) -> None:
        """Write to the journal; over a connection that was lost once, once more over a new one.

        The server may have gone away and come back under a step that failed for that very reason. The
        lock went with the connection, so it is taken again first; failing to record is fatal.
        """
        try:
            write()
        except DatabaseError:
            session = connect(self._request.target, application_name=f"mandate-run-{self._record.run_id}")
            lock.acquire(session, self._request.target, self._request.wait_seconds)
            self._journal = journal.Journal(session, self._record.run_id)
            write()

    def _planned(self) -> Mapping[str, float]:
        rehearsed = self._record.step("rehearse")
        steps: Sequence[Any] = rehearsed.evidence.get("steps", []) if rehearsed else []
        return {step["name"]: float(step["seconds"]) for step in steps}

    def _context(self) -> Context:
        made = context(self._request, self._record, self._watcher.reporter)
        return replace(made, estimates={**made.estimates, **self._planned()})


def context(request: Request, record: RunRecord, reporter: Reporter) -> Context:
    """What a step of this run gets."""
    return Context(
        migration=request.migration,
        run_id=record.run_id,
        started_at=record.started_at,
        directory=Path(record.directory),
        settings=request.settings,
        target=request.target,
        options=request.options,
        reporter=reporter,
        results={step.name: step.evidence for step in record.steps if step.status == "passed"},
        estimates={s.name: planned for s in record.steps if (planned := s.planned_seconds) is not None},
    )


def make_directory(directory: Path) -> None:
    """Make the directory of a run. Raises NeedsPerson."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NeedsPerson(
            f"the run directory cannot be made: {describe(error)}",
            hint="run where you may write, or set run.directory in mandate.toml",
        ) from error


def describe(error: OSError) -> str:
    """What the system said, and about which file."""
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


def as_step_error(error: MandateError | OSError, step: Step) -> MandateError:
    """Errors of PostgreSQL and its programs end a step with the step's own exit code."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = FREE_SPACE if full else None
        return NeedsPerson(f"{step.name}: {describe(error)}", hint=hint)
    if isinstance(error, OutcomeUnknown) or not isinstance(error, DatabaseError | ProgramError):
        return error
    hint = error.hint or (FREE_SPACE if isinstance(error, DiskFull) else None)
    return _step_failed(step, error.message, hint, error, **error.fields)


def _step_failed(step: Step, message: str, hint: str | None, cause: Exception, **fields: Any) -> MandateError:
    failed = StepFailed(f"{step.name}: {message}", hint=hint, **fields)
    failed.__cause__ = cause
    failed.exit_code = step.exit_code
    failed.code = f"{step.name}-failed"
    return failed


class StepFailed(MandateError):
    """A step ended with an error of PostgreSQL; the instance carries the step's exit code."""


def _without_evidence(error: MandateError) -> dict[str, Any]:
    shown = error.as_dict()
    shown["fields"] = {key: value for key, value in error.fields.items() if key != "evidence"}
    return shown
