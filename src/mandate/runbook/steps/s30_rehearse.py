"""Guide step 3: the whole migration, its rollback, and it again, on the restored backup or on staging."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mandate.errors import CheckFailed, MandateError
from mandate.postgres import database
from mandate.postgres.connection import Target
from mandate.runbook import engine_run, modes, restore
from mandate.runbook.step import Context, Outcome, Step


@dataclass(frozen=True)
class Rehearse:
    """`inner` are the steps of the real run that are rehearsed, in order."""

    inner: Sequence[Step]
    name: str = "rehearse"
    title: str = "Rehearsal on the restored backup"
    guide: str = "3"
    exit_code: int = CheckFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Rehearse; raises CheckFailed naming the step that would have failed."""
        backup = context.results.get("backup")
        if backup is None:
            raise CheckFailed("there is no proven backup to rehearse on", hint="run the backup step first")
        target = restore.scratch(context, backup)
        rehearsal = _Rehearsal(context, target, context.directory / "rehearsal")
        if modes.by_engine(context.options.mode):
            # The backup of a run that is gone on with may hold a half-built change.
            engine_run.clean(rehearsal.inner())
        for step in self.inner:
            rehearsal.play(step)
        rehearsal.roll_back(Path(str(backup["file"])))
        for step in self.inner:
            rehearsal.play(step, again=True)
        with database.maintenance(context.target, context.application_name) as keeper:
            database.drop(keeper, target.database)
        return rehearsal.outcome()


@dataclass
class _Rehearsal:
    context: Context
    target: Target
    directory: Path
    results: dict[str, Any] = field(default_factory=dict)
    seconds: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def play(self, step: Step, *, again: bool = False) -> None:
        name = f"{step.name} again" if again else step.name
        with self._timed(name):
            outcome = step.run(self.inner())
        if not again:
            self.results[step.name] = outcome.evidence

    def inner(self) -> Context:
        """The run on the copy."""
        return self.context.on_copy(self.target, self.directory, dict(self.results))

    def roll_back(self, backup: Path) -> None:
        """As `mandate rollback` would in this mode."""
        with self._timed("rollback"):
            if modes.by_engine(self.context.options.mode):
                engine_run.roll_back(self.inner())
            else:
                restore.rollback_rehearsed(self.context, self.target, backup)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except MandateError as error:
            raise CheckFailed(
                f"rehearsal: {name} failed on {self.target.database}: {error.message}",
                hint=error.hint or "the real database was not touched",
                evidence={"database": self.target.database, "steps": self.seconds},
            ) from error
        self.seconds.append({"name": name, "seconds": round(time.monotonic() - started, 3)})

    def outcome(self) -> Outcome:
        migrate = self.results["migrate"]
        evidence = {
            "database": self.target.database,
            "steps": self.seconds,
            "mode": self.context.options.mode,
            "locks": migrate.get("locks", []),
            "phases": migrate.get("phases", []),
            "rows": sum(table["rows_before"] for table in migrate.get("fingerprints", [])),
            "statements": migrate.get("statements", []),
        }
        times = {item["name"]: item["seconds"] for item in self.seconds}
        summary = (
            f"migrated in {times['migrate']:.1f} s, rolled back in {times['rollback']:.1f} s, migrated again"
        )
        return Outcome(summary, evidence)
