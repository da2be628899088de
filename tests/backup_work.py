"""Backups in tests: work on a database, rows to back up, and something done at a certain moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from tests.stepping import RUN_ID, Lines

from mandate.postgres import database
from mandate.postgres.connection import Target, connect
from mandate.progress import Reporter
from mandate.runbook.scratch import Work

DECISIONS = 300


def work_on(
    target: Target, directory: Path, *, run_id: str = RUN_ID, jobs: int = 2, reporter: Reporter | None = None
) -> Work:
    """The work of a run on a database."""
    return Work(target, run_id, directory, jobs, reporter or Lines(), f"mandate-run-{run_id}")


def fill(target: Target, decisions: int = DECISIONS) -> None:
    """Decisions with verdicts on a version 7 database with the example data."""
    with connect(target) as session:
        session.execute(
            "INSERT INTO mandate.decision_events"
            " (decision_id, intent, stage, actor, target, context, timestamp, organization_id, domain_id)"
            " SELECT md5('decision' || i)::uuid, 'intent' || i %% 7, 'proposed', 'agent', 'target',"
            " jsonb_build_object('n', i, 'text', md5(i::text)), now(), d.organization_id, d.domain_id"
            " FROM generate_series(1, %(decisions)s) AS i"
            " CROSS JOIN (SELECT * FROM mandate.domains ORDER BY name LIMIT 1) AS d",
            {"decisions": decisions},
        )
        session.execute(
            "INSERT INTO mandate.verdict_events"
            " (verdict_id, decision_id, snapshot_id, verdict, timestamp, organization_id, domain_id)"
            " SELECT md5(decision_id::text)::uuid, decision_id, s.snapshot_id, 'ALLOW', now(),"
            " e.organization_id, e.domain_id FROM mandate.decision_events AS e"
            " CROSS JOIN (SELECT * FROM mandate.policy_snapshots ORDER BY 1 LIMIT 1) AS s"
        )


class At(Lines):
    """A reporter that acts once, when the task whose label begins with `label` starts."""

    def __init__(self, label: str, act: Callable[[], None]) -> None:
        super().__init__()
        self._label, self._act = label, act
        self.acted = False

    def task(
        self,
        label: str,
        *,
        total: float | None = None,
        unit: str = "",
        expected_seconds: float | None = None,
    ) -> Any:
        if label.startswith(self._label) and not self.acted:
            self.acted = True
            self._act()
        return super().task(label, total=total, unit=unit, expected_seconds=expected_seconds)


# An argument by which the long-running call of a program is known from its short ones.
LONG_CALL = {"pg_dump": "--snapshot", "pg_restore": "--dbname"}


@contextmanager
def when_child_runs(
    name: str, act: Callable[[psutil.Process], object], parent: int | None = None
) -> Iterator[None]:
    """Do something to the child process that is the long call of a program, as soon as it is there."""
    over = threading.Event()
    done: list[int] = []

    def watch() -> None:
        process = psutil.Process(parent)
        while not over.is_set():
            for child in process.children():
                if _is_long_call(child, name):
                    done.append(child.pid)
                    act(child)
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done, f"no {name} was seen"


def _is_long_call(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == name and any(LONG_CALL[name] in part for part in process.cmdline())
    except psutil.Error:
        return False


@contextmanager
def dropping_what_is_made(target: Target) -> Iterator[None]:
    """Drop every database of the server that carries Mandate's mark, before and after."""
    _drop_marked(target)
    try:
        yield
    finally:
        _drop_marked(target)


def _drop_marked(target: Target) -> None:
    with database.maintenance(target) as session:
        for name in database.marks(session):
            database.drop(session, name)
