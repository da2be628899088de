"""What a guarded migration is to the conductor: a value that says which files, engine, proofs are its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mandate.postgres.connection import Session, Target
from mandate.progress import Reporter
from mandate.rekey.engine import Engine
from mandate.rekey.options import Options
from mandate.rekey.spec import Spec
from mandate.runbook import migrations
from mandate.runbook.migrations import MigrationFile
from mandate.runbook.probes import Probe
from mandate.runbook.proof import Proof
from mandate.runbook.record import REHEARSAL
from mandate.settings import Settings


def _nothing(_session: Session, *_more: object) -> None:
    """For a migration that needs nothing there."""


def _no_probes(_session: Session, _names: Mapping[str, Any]) -> Iterator[Probe]:
    yield from ()


@dataclass(frozen=True)
class Proven:
    """A line of the checklist that verification proves: the ids of the checks that must all pass."""

    text: str
    checks: tuple[str, ...]


@dataclass(frozen=True)
class Tried:
    """A line of the checklist: of `table` a bad row is refused with `word`, and a good one is taken."""

    text: str
    table: str
    word: str


@dataclass(frozen=True)
class Migration:
    """A guarded migration from version `before` to `version`.

    `pre_checks_name`, `script_name`, `verification_name`: its files in migrations/, as psql runs them.
    `engine` makes what migrates; `spec` is what it is told; `prepare` makes what that reads beside the
    tables. `before_checks` puts in place what the pre-checks read. `proof`: how rows are compared. `probes`:
    constraint tests beyond those of version 8. `proven`, `tried`: lines of the checklist. `by_hand`: what
    the hand-run file does to a table, else nothing. `log`: lines of the execution log, each a label and a
    query for psql. `troubleshooting`: queries of `diagnose`, by schema version. `after`: the guarded
    migration that comes before it. `timetable`: whether the execution guide says how long its steps take.
    """

    name: str
    version: int
    title: str
    pre_checks_name: str
    script_name: str
    verification_name: str
    spec: Callable[[], Spec]
    engine: Callable[[Target, Reporter, Options | None], Engine]
    proof: Proof
    proven: tuple[Proven, ...]
    tried: tuple[Tried, ...]
    by_hand: Mapping[str, str]
    log: tuple[tuple[str, str], ...]
    troubleshooting: Mapping[int, str]
    after: Migration | None = None
    timetable: bool = False
    prepare: Callable[[Session], None] = _nothing
    before_checks: Callable[[Session, Settings], None] = _nothing
    probes: Callable[[Session, Mapping[str, Any]], Iterator[Probe]] = field(default=_no_probes)

    @property
    def before(self) -> int:
        """The schema version that it begins with."""
        return self.version - 1

    @property
    def rehearsal(self) -> str:
        """What the journal calls a rehearsal of it alone."""
        return f"{self.name}{REHEARSAL}"

    @property
    def pre_checks(self) -> Path:
        """Step 4 of the guide."""
        return migrations.directory() / self.pre_checks_name

    @property
    def script(self) -> Path:
        """Step 5 of the guide, by hand."""
        return migrations.directory() / self.script_name

    @property
    def verification(self) -> Path:
        """Step 6 of the guide."""
        return migrations.directory() / self.verification_name

    @property
    def fixes(self) -> Path:
        """One file per check whose data can be repaired."""
        return migrations.directory() / "fixes"

    @property
    def file(self) -> MigrationFile:
        """Its numbered file, as `db init` knows it. Raises UsageError when it is not there."""
        return migrations.of_version(self.version)

    @property
    def retained(self) -> str:
        """The schema of the old tables while there is a way back."""
        return f"mandate_pre_{self.name}"

    @property
    def work(self) -> str:
        """The schema of the engine's own tables."""
        return f"mandate_rekey_{self.name}"
