"""mandate demo: everything from an empty directory to a migrated database and its report.

The service stays up throughout, and a client asks it without a pause: not one request may fail.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from mandate import settings
from mandate.cli import options, output, run, run_text
from mandate.cli.output import Format
from mandate.controlplane import seed
from mandate.errors import ServiceFailed, UsageError
from mandate.postgres import database, embedded
from mandate.postgres.connection import Target
from mandate.postgres.embedded_host import free_port, is_free
from mandate.runbook import conduct, ending, guide, identity, migrations, modes, readiness, services, visitor

MARKER = ".mandate-demo"


@dataclass(frozen=True)
class Stage:
    """Where a demo plays: its directory, database and settings."""

    directory: Path
    target: Target
    loaded: settings.Loaded


@options.command
def demo(
    directory: Annotated[
        Path, typer.Option("--directory", help="Where the demo lives; made when it is not there.")
    ] = Path("demo"),
    decisions: Annotated[
        int, typer.Option("--decisions", min=1, max=100_000_000, help="Decisions to generate.")
    ] = 50_000,
    seed_value: Annotated[int, typer.Option("--seed", help="Another number, another history.")] = 8,
    version: Annotated[int, typer.Option("--version", help="PostgreSQL 18 or 16.")] = 18,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave service and server up at the end.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Then go back to version 7, forward again, and finalize.")
    ] = False,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Start PostgreSQL, build a version 7 database with a history, migrate it online, report.

    The service answers all the while, and a client counts what it is refused. Everything happens in one
    directory and on this machine. Run it again and it starts over.
    """
    place = _prepare(directory.absolute())
    reporter = output.ConsoleReporter(format)
    with _server(place, version, keep_running, reporter) as server:
        stage = _stage(place, server)
        _history(stage, decisions, seed_value, reporter)
        with _service(stage, keep_running, reporter):
            return _migrate(stage, full, reporter, format)


def _migrate(stage: Stage, full: bool, reporter: output.ConsoleReporter, format: Format) -> int:
    """The run, under a client that never pauses. It is a failure if the client was refused."""
    request = conduct.Request(
        migration=identity.MIGRATION,
        target=stage.target,
        settings=stage.loaded.settings,
        options=run.run_options(stage.loaded, jobs=None, yes=True),
        steps=guide.STEPS,
        mode=modes.ONLINE,
    )
    with visitor.visiting(stage.loaded.settings.smoke.base_url) as visits:
        code = run.conduct_and_show(request, format)
        if full and not code:
            code = _there_and_back(request, format)
    reporter.line(f"Meanwhile a client asked the service {visits.asked:,} times; {visits.said}")
    return code or (ServiceFailed.exit_code if visits.refused else 0)


def _there_and_back(request: conduct.Request, format: Format) -> int:
    """Back without loss, forward again, and the end of the way back."""
    watcher = run.watcher(request, output.ConsoleReporter(format))
    asked = ending.Request(request, lambda _window: True)
    code = run.show(ending.lossless(asked, watcher), request.settings, format)
    again = replace(request, leave_out=frozenset({"rehearse"}))
    code = code or run.conduct_and_show(again, format)
    return code or run.show(ending.finalize(asked, watcher), request.settings, format)


def _prepare(place: Path) -> Path:
    """The demo's directory. Raises UsageError for a directory with something else in it."""
    if place.exists() and not place.is_dir():
        raise UsageError(f"{place} is not a directory", hint="give another --directory")
    if place.exists() and any(place.iterdir()) and not (place / MARKER).exists():
        raise UsageError(f"{place} holds something else", hint="give an empty --directory")
    place.mkdir(parents=True, exist_ok=True)
    (place / MARKER).touch()
    return place


@contextmanager
def _server(
    place: Path, version: int, keep: bool, reporter: output.ConsoleReporter
) -> Iterator[embedded.EmbeddedServer]:
    if version not in (16, 18):
        raise UsageError(f"--version {version}: the embedded PostgreSQL is 18 or 16")
    reporter.line(f"Starting an embedded PostgreSQL {version} in {run_text.short_path(str(place))}")
    data_dir = embedded.reachable(place / f"postgresql-{version}")
    server = embedded.start(data_dir, version=version, reporter=reporter)
    try:
        yield server
    finally:
        if keep:
            reporter.line(f"PostgreSQL stays up: mandate db stop --data-dir {server.data_dir}")
        else:
            embedded.stop(server.data_dir)


def _stage(place: Path, server: embedded.EmbeddedServer) -> Stage:
    target = server.target("mandate")
    port = 3000 if is_free(3000) else free_port()
    config = place / settings.CONFIG_NAME
    values = {"dsn": target.conninfo, "python": sys.executable, "logs": f"{place}/log/*.log"}
    quoted = {key: json.dumps(value) for key, value in values.items()}
    config.write_text(_CONFIG.format(port=port, **quoted), "utf-8")
    return Stage(place, target, settings.load({}, file=config))


_CONFIG = """\
# Written by `mandate demo`. From this directory: mandate status
[database]
dsn = {dsn}

[services]
kind = "process"

[[services.process]]
name = "mandate-serve"
command = [{python}, "-m", "mandate", "serve", "--config", "mandate.toml"]
pid_file = "serve.pid"
directory = "."

[serve]
port = {port}
log_dir = "log"

[smoke]
base_url = "http://localhost:{port}"
log_globs = [{logs}]

[run]
directory = "runs"

[backup]
directory = "backups"
"""


def _history(stage: Stage, decisions: int, seed_value: int, reporter: output.ConsoleReporter) -> None:
    """A fresh version 7 database with a generated history; what an earlier demo left is dropped."""
    with database.maintenance(stage.target, "mandate-demo") as session:
        if database.exists(session, stage.target.database):
            database.drop(session, stage.target.database)
    shutil.rmtree(stage.directory / "backups", ignore_errors=True)
    migrations.init(stage.target, to=7, reporter=reporter)
    reporter.line(f"Generating {decisions:,} decisions, their verdicts and timelines")
    seed.load(stage.target, seed.Parameters(decisions=decisions, seed=seed_value), reporter)


@contextmanager
def _service(stage: Stage, keep: bool, reporter: output.ConsoleReporter) -> Iterator[None]:
    """The service runs before the migration begins, as it does on any real system."""
    chosen = stage.loaded.settings
    adapter = services.adapter(chosen.services)
    started = adapter.start(reporter)
    readiness.wait(readiness.url(chosen), adapter, started, chosen.services.ready_timeout_seconds, reporter)
    reporter.line(f"mandate serve answers at {stage.loaded.settings.smoke.base_url}")
    try:
        yield
    finally:
        if not keep:
            adapter.stop(reporter)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(demo)
