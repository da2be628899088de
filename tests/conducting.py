"""A conductor in a process of its own: started, watched line by line, killed, and asked how it ended."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests.commands import MANDATE, clean_environment

from mandate.controlplane import seed
from mandate.postgres.connection import Target, connect, sql
from mandate.runbook import migrations

TABLES = ("organizations", "domains", "scopes", "policy_snapshots", "mandate_specs")
EVENTS = ("decision_events", "verdict_events", "audit_timeline_entries")


@dataclass(frozen=True)
class Finished:
    """Exit code, stdout as JSON when it is, and everything that was said on stderr."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.stdout)
        return document


@dataclass
class Conductor:
    """A running `mandate run`."""

    process: subprocess.Popen[str]
    _lines: SimpleQueue[str | None] = field(default_factory=SimpleQueue)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern: str, timeout: float = 120) -> str:
        """The first line from here on that matches."""
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except Empty:
                raise AssertionError(f"no {pattern!r} in:\n{''.join(self.said)}") from None
            if line is None:
                raise AssertionError(f"ended before {pattern!r}:\n{''.join(self.said)}")
            self.said.append(line)
            if re.search(pattern, line):
                return line

    def begins(self, step: str) -> None:
        """Wait until a step begins."""
        self.wait_for(rf"\.\.\.\. {step} ")

    def kill(self) -> None:
        """kill -9, as the machine's end would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def finish(self, timeout: float = 180) -> Finished:
        """Let it end."""
        assert self.process.stdout is not None
        stdout = self.process.stdout.read()
        code = self.process.wait(timeout)
        while (line := self._lines.get(timeout=30)) is not None:
            self.said.append(line)
        return Finished(code, stdout, "".join(self.said))


def start(
    target: Target,
    directory: Path,
    *arguments: str,
    env: dict[str, str] | None = None,
    command: str = "run",
    migration: str = "008",
) -> Conductor:
    """Start `mandate run 008 ...` (or another command, another migration) in `directory` against `target`."""
    return Conductor(
        subprocess.Popen(
            [str(MANDATE), command, migration, *arguments],
            cwd=directory,
            env=clean_environment({"DATABASE_URL": target.conninfo, **(env or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def run(target: Target, directory: Path, *arguments: str, env: dict[str, str] | None = None) -> Finished:
    """Run to the end, without asking and without a rehearsal unless told."""
    given = arguments or ("--yes", "--no-rehearsal")
    return start(target, directory, *given, env=env).finish()


def command(target: Target, directory: Path, *arguments: str) -> Finished:
    """Any other command of mandate."""
    done = subprocess.run(
        [str(MANDATE), *arguments],
        cwd=directory,
        env=clean_environment({"DATABASE_URL": target.conninfo}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def seeded(target: Target, decisions: int = 300) -> Target:
    """Fill a version 7 database with a small history."""
    seed.load(target, seed.Parameters(decisions=decisions))
    return target


def version(target: Target) -> int:
    """The schema version."""
    with connect(target) as session:
        return migrations.require_version(session)


def named_rows(target: Target) -> dict[str, list[tuple[str, ...]]]:
    """What must be the same before and after: every event's key with its domain's name, every row count.

    Written independently of the product's own fingerprints.
    """
    with connect(target) as session:
        old = migrations.require_version(session) == 7
        found = {}
        for table, key in zip(EVENTS, ("decision_id", "verdict_id", "entry_id"), strict=True):
            query = sql.SQL(
                "SELECT t.{key}::text, {name}, t.organization_id::text FROM {table} t {join} ORDER BY 1"
            ).format(
                key=sql.Identifier(key),
                name=sql.Identifier(*(("d", "name") if old else ("t", "domain"))),
                table=sql.Identifier("mandate", table),
                join=sql.SQL("JOIN mandate.domains d ON d.domain_id = t.domain_id" if old else ""),
            )
            found[table] = [tuple(row.values()) for row in session.rows(query)]
        for table in TABLES:
            count = session.value(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("mandate", table)))
            found[table] = [(str(count),)]
    return found
