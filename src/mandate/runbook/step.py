"""What a step of the guide is: a name, what it needs, and an outcome made of figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from mandate.postgres.connection import Session, Target, connect
from mandate.progress import Reporter
from mandate.rekey import cutover
from mandate.runbook import modes
from mandate.runbook.migration import Migration
from mandate.runbook.modes import Mode
from mandate.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """What a step that did not raise has to show.

    `summary` is one line for a person; `evidence` is JSON-able and holds every figure that the report,
    the checklist and the exit code are derived from. A step that fails raises a MandateError.
    """

    summary: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    skipped: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the command line decided for this run.

    `deadline_seconds` and `attempts` are those of the engine's cutover; None: what fits the mode. `accept`:
    problems of the engine, word by word, that a person has looked at.
    """

    jobs: int
    lock_timeout_seconds: float
    assume_yes: bool = False
    mode: Mode = modes.ENGINE
    hold_cutover: bool = False
    deadline_seconds: float | None = None
    attempts: int | None = None
    accept: frozenset[str] = frozenset()

    @property
    def swap(self) -> cutover.Options:
        """How the engine swaps.

        With services up a client never waits longer than half a second, and it is tried until it works.
        With services stopped nobody waits: it may take as long as a lock may, a few times.
        """
        if self.mode == modes.ONLINE:
            return cutover.Options(deadline_seconds=self.deadline_seconds or 0.5, attempts=self.attempts)
        return cutover.Options(
            deadline_seconds=self.deadline_seconds or 60.0,
            lock_timeout_seconds=min(self.deadline_seconds or 60.0, self.lock_timeout_seconds),
            largest_backlog=100_000,
            attempts=self.attempts or 3,
        )


@dataclass(frozen=True)
class Context:
    """Everything a step may use. `results` holds the evidence of the steps done so far, by name.

    `rehearsing`: the target is a copy that nobody else uses.
    """

    migration: Migration
    run_id: str
    started_at: datetime
    directory: Path
    settings: Settings
    target: Target
    options: Options
    reporter: Reporter
    results: Mapping[str, Mapping[str, Any]]
    estimates: Mapping[str, float]
    rehearsing: bool = False

    @property
    def services_up(self) -> bool:
        """Whether others may be writing to the target while the run works on it."""
        return self.options.mode == modes.ONLINE and not self.rehearsing

    def on_copy(self, target: Target, directory: Path, results: Mapping[str, Mapping[str, Any]]) -> Context:
        """The same run rehearsed on another database."""
        options = replace(self.options, hold_cutover=False)
        return replace(
            self, target=target, directory=directory, results=results, options=options, rehearsing=True
        )

    @property
    def application_name(self) -> str:
        """Carries the run id, so that pg_stat_activity tells whose session it is."""
        return f"mandate-run-{self.run_id}"

    def session(self, target: Target | None = None, **settings: str) -> Session:
        """A session of this run on its database (or another target)."""
        return connect(target or self.target, application_name=self.application_name, settings=settings)


class Step(Protocol):
    """One step. Implementations live in runbook/steps, one module each, as an object called STEP."""

    @property
    def name(self) -> str:
        """Short name as in `--from NAME`."""

    @property
    def title(self) -> str:
        """One phrase for a person."""

    @property
    def guide(self) -> str:
        """The guide's step numbers, for example "7, 8"."""

    @property
    def exit_code(self) -> int:
        """Exit code when the step fails for a reason that has none of its own."""

    def run(self, context: Context) -> Outcome:
        """Do it, or raise a MandateError. Running it again after a crash must be safe."""
