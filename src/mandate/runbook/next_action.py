"""Journal and catalogue -> what `mandate run` does next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mandate.errors import MandateError, NeedsPerson, UsageError
from mandate.runbook import modes
from mandate.runbook.migration import Migration
from mandate.runbook.record import RunRecord, StepRecord

REDONE_ON_RESUME = frozenset({"preflight", "stop", "check"})
OPTIONAL = frozenset({"preflight", "rehearse", "probe", "restart", "smoke", "record"})


@dataclass(frozen=True)
class Begin:
    """Start a new run."""


@dataclass(frozen=True)
class Resume:
    """Continue `record`, whose steps say what is still to do."""

    record: RunRecord
    because: str


@dataclass(frozen=True)
class Nothing:
    """There is nothing to do, and why."""

    because: str


@dataclass(frozen=True)
class Refuse:
    """Going on would be guessing."""

    error: MandateError


Action = Begin | Resume | Nothing | Refuse


def decide(latest: RunRecord | None, schema_version: int, migration: Migration) -> Action:
    """What to do about a database at `schema_version` whose newest run of the migration is `latest`."""
    if schema_version == migration.before:
        return _on_unmigrated(latest)
    if schema_version == migration.version:
        return _on_migrated(latest, migration)
    if schema_version > migration.version:
        return Nothing(
            f"the database is at version {schema_version}: migration {migration.name} is behind it"
        )
    return Refuse(too_early(schema_version, migration))


def too_early(schema_version: int, migration: Migration) -> NeedsPerson:
    """The refusal of a database that something else must be done to first."""
    first = migration.after
    hint = (
        f"run that first: `mandate run {first.name}`"
        if first is not None and schema_version >= first.before
        else "`mandate db init --to 007` brings an older one to 7"
    )
    follows = f"migration {first.name}" if first else f"version {migration.before}"
    return NeedsPerson(
        f"the database is at version {schema_version}; migration {migration.name} follows {follows}",
        hint=hint,
    )


def _on_migrated(latest: RunRecord | None, migration: Migration) -> Action:
    at = f"the database is at version {migration.version}"
    if latest is None:
        return Nothing(f"{at} already; no run of the conductor brought it there")
    if latest.step("migrate") is None:
        return Nothing(f"{at} already: there is nothing to rehearse")
    if latest.status == "complete":
        return Nothing(f"run {latest.run_id} completed migration {migration.name}; {at}")
    if latest.status == "rolled-back":
        return Nothing(
            f"{at} although run {latest.run_id} was rolled back: somebody migrated it by hand since"
        )
    return Resume(
        _resumed_after(latest, migration), "the migration is in the database, what follows it is not done"
    )


def _on_unmigrated(latest: RunRecord | None) -> Action:
    if latest is None or latest.status in ("complete", "rolled-back"):
        return Begin()
    return Resume(_resumed_before(latest), f"run {latest.run_id} ended before the migration was done")


def _resumed_after(record: RunRecord, migration: Migration) -> RunRecord:
    """The database is migrated: nothing up to `migrate` is run again."""
    reached = _position(record.steps, "migrate")
    steps = [
        _recovered(step, record.mode, migration) if place <= reached else _again_unless_passed(step)
        for place, step in enumerate(record.steps)
    ]
    return replace(record, steps=tuple(steps))


def _recovered(step: StepRecord, mode: str, migration: Migration) -> StepRecord:
    if step.status in ("passed", "skipped"):
        return step
    if step.name == "migrate" and modes.by_engine(mode):
        # The engine says how it went, and does what is left to do after its swap.
        return pending(step)
    if step.name == "migrate":
        return replace(
            step,
            status="passed",
            summary=f"found done: the database is at version {migration.version}",
            evidence={"method": "found done", **step.evidence},
            error=None,
        )
    return replace(step, status="skipped", summary="not done before the migration was", error=None)


def _resumed_before(record: RunRecord) -> RunRecord:
    """The database is as it was: prove again what may have changed, keep a finished backup."""
    reached = _position(record.steps, "migrate")
    steps = [
        pending(step) if place >= reached or step.name in REDONE_ON_RESUME else _again_unless_passed(step)
        for place, step in enumerate(record.steps)
    ]
    return replace(record, steps=tuple(steps))


def _again_unless_passed(step: StepRecord) -> StepRecord:
    return step if step.status == "passed" else pending(step)


def leave_out(record: RunRecord, names: frozenset[str]) -> RunRecord:
    """The record without what was asked to be left out; what has passed stays."""
    steps = tuple(
        replace(step, status="skipped", summary="left out as asked")
        if step.name in names and step.status != "passed"
        else step
        for step in record.steps
    )
    return replace(record, steps=steps)


def passed_steps(record: RunRecord | None) -> frozenset[str]:
    """Names of the steps of a run that have passed."""
    return frozenset(step.name for step in record.steps if step.status == "passed") if record else frozenset()


def pending(step: StepRecord) -> StepRecord:
    """The step as not yet done; its attempts are kept."""
    return replace(step, status="pending", summary="", error=None, warnings=())


def _position(steps: Sequence[StepRecord], name: str) -> int:
    """Where a step is; behind the last one when there is none of that name, as in a rehearsal."""
    return next((place for place, step in enumerate(steps) if step.name == name), len(steps))


def restrict(
    record: RunRecord, first: str | None, last: str | None, passed_before: frozenset[str] = frozenset()
) -> tuple[RunRecord, frozenset[str]]:
    """The record with steps before `first` skipped, and the names of the steps to run now.

    `passed_before`: steps that passed in an earlier attempt of this run and would be proven again. Raises
    UsageError for an unknown name, an empty range, or a skipped step that must not be skipped.
    """
    names = [step.name for step in record.steps]
    start = _index(names, first, 0, "--from")
    end = _index(names, last, len(names) - 1, "--to")
    if start > end:
        raise UsageError(f"--from {first} comes after --to {last}", hint=f"steps: {', '.join(names)}")
    for step in record.steps[:start]:
        if step.status not in ("passed", "skipped") and step.name not in OPTIONAL | passed_before:
            raise UsageError(
                f"--from {first} would leave out {step.name}, which has not passed in this run",
                hint=f"start at {step.name}, or leave --from out",
            )
    steps = tuple(
        replace(step, status="skipped", summary=f"left out by --from {first}")
        if place < start and step.status != "passed"
        else step
        for place, step in enumerate(record.steps)
    )
    return replace(record, steps=steps), frozenset(names[start : end + 1])


def _index(names: Sequence[str], name: str | None, default: int, flag: str) -> int:
    if name is None:
        return default
    if name not in names:
        raise UsageError(f"{flag}: there is no step {name!r}", hint=f"steps: {', '.join(names)}")
    return names.index(name)
