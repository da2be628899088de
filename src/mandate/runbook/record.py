"""A run as data: what the journal holds, what the report shows, what the checklist is derived from.

Evidence per step, by key (every path relative to the run directory unless absolute):

- preflight: as check, without fingerprints
- stop:     services {kind, stopped [str]; online: running [str]},
            writers [{pid, user, application, address, state}]
- backup:   file, bytes, sha256, dump_seconds, verify_seconds, restore_seconds, scratch_database,
            tables [{table, rows, fingerprint, restored_fingerprint}], entries (archive entries read)
- rehearse: database, mode, steps [{name, seconds}], locks [{table, mode, seconds}], phases [{name, seconds}]
- check:    checks [Check as below], passed, failed, errors, transcript
- migrate:  method ("plain-sql"), seconds, transcript, statements [{tag, seconds}],
            locks [{table, mode, seconds}]; method "engine": seconds, phases [{name, seconds}],
            fingerprints (as verify's, taken before the swap), blocked_milliseconds, attempts, blockers, locks
- verify:   checks (as above), fingerprints [{table, rows_before, rows_after, before, after, equal}]
- probe:    probes [{name, sql, expected, got, sqlstate, constraint, message, status}], rows_left,
            consumed [str] (side effects that a rolled-back probe cannot give back: sequence values)
- restart:  services {kind, started [str], stayed [str] (online)}, ready_url, ready_seconds
- smoke:    calls [{url, status, ok, milliseconds, detail}], domain, rows_checked,
            logs {files [str], lines, findings [{file, line, text}]}
- record:   execution_log, archive, link, migration_log {id, executed_at}
- rollback: database_before, database_kept, written_since {table: rows}, export, seconds, notified [str];
            method "engine": tables [...], behind, blocked_milliseconds, attempts, stopped, restarted
- finalize: tables [{table, rows, ...}], behind, bytes_freed, checks, passed, failed, errors

A Check is {id, title, section, expect, result, status (pass|fail|error), rows [{...}], error, fix}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

# What follows a migration's name in the name of a run that only rehearses it.
REHEARSAL = "-rehearsal"

StepStatus = Literal["pending", "running", "passed", "failed", "skipped", "interrupted"]
RunStatus = Literal["running", "complete", "failed", "interrupted", "rolled-back", "waiting"]


@dataclass(frozen=True)
class StepRecord:
    """One step of a run. `planned_seconds` comes from the rehearsal, None without one."""

    name: str
    title: str
    guide: str
    critical: bool
    status: StepStatus
    planned_seconds: float | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    summary: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: Mapping[str, Any] | None = None
    attempts: int = 0

    @property
    def seconds(self) -> float | None:
        """Actual duration of the last attempt."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class Tick:
    """A line of the guide's checklist or success criteria, ticked by evidence only.

    `ticked` None means: nothing has looked at it yet.
    """

    text: str
    ticked: bool | None
    because: str


@dataclass(frozen=True)
class RunRecord:
    """A whole run. `mode` as in runbook.modes.

    `point_of_no_return` names the step after which going back means a restore.
    """

    run_id: str
    migration: str
    title: str
    mode: str
    database: str
    server_version: str
    mandate_version: str
    host: str
    operator: str
    started_at: datetime
    finished_at: datetime | None
    status: RunStatus
    exit_code: int | None
    directory: str
    steps: tuple[StepRecord, ...]
    checklist: tuple[Tick, ...] = ()
    criteria: tuple[Tick, ...] = ()
    point_of_no_return: str = "restart"

    def step(self, name: str) -> StepRecord | None:
        """The step called `name`, if the run has it."""
        return next((step for step in self.steps if step.name == name), None)

    @property
    def rehearsal(self) -> bool:
        """Whether it is of the migration on a copy alone."""
        return self.migration.endswith(REHEARSAL)

    @property
    def command(self) -> str:
        """What begins such a run, and goes on with it."""
        verb = "rehearse" if self.rehearsal else "run"
        return f"mandate {verb} {self.migration.removesuffix(REHEARSAL)}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able but for datetimes."""
        return asdict(self)
