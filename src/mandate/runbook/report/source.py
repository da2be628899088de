"""Where a report's record comes from: the run.json of a run directory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mandate.errors import UsageError
from mandate.runbook.record import RunRecord, StepRecord
from mandate.runbook.report.words import aware

RUN_FILE = "run.json"
_RECORD = TypeAdapter(RunRecord)


def read(path: Path) -> RunRecord:
    """The record in a run.json. Its directory is where the file is now. Raises UsageError."""
    try:
        record = _RECORD.validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path} is not a run's record: {where} {first['msg']}") from None
    steps = tuple(_in_utc(step) for step in record.steps)
    return replace(
        record,
        started_at=aware(record.started_at),
        finished_at=_aware(record.finished_at),
        steps=steps,
        directory=str(path.absolute().parent),
    )


def _in_utc(step: StepRecord) -> StepRecord:
    return replace(step, started_at=_aware(step.started_at), finished_at=_aware(step.finished_at))


def _aware(value: datetime | None) -> datetime | None:
    return aware(value) if value else None


def find(
    directory: Path, migrations: Collection[str], run_id: str | None = None
) -> tuple[RunRecord, list[str]]:
    """The named run below `directory`, else its newest run of one of `migrations`.

    Also says which run directories could not be read. Raises UsageError when there is no such run, or
    when the named run cannot be read.
    """
    found: list[RunRecord] = []
    unreadable: list[str] = []
    for path in sorted(directory.glob(f"*/{RUN_FILE}")):
        try:
            found.append(read(path))
        except UsageError as error:
            if run_id and run_id in path.parent.name:
                raise
            unreadable.append(error.message)
    wanted = [run for run in found if run.migration in migrations and run_id in (None, run.run_id)]
    if not wanted:
        raise _nothing(directory, migrations, run_id, unreadable)
    return max(wanted, key=lambda run: (run.started_at, run.run_id)), unreadable


def _nothing(
    directory: Path, migrations: Collection[str], run_id: str | None, unreadable: list[str]
) -> UsageError:
    migration = " or ".join(migrations)
    what = f"run {run_id} of migration {migration}" if run_id else f"run of migration {migration}"
    also = f"; {unreadable[0]}" if unreadable else ""
    return UsageError(
        f"there is no {what} in {directory}{also}",
        hint="give --dsn to read the database's journal, or set run.directory in mandate.toml",
    )
