"""mandate db: the embedded server, its databases and their generated history."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mandate.cli import db_grant, db_seed, options, output
from mandate.cli.options import Config, DataDir, Dsn, FormatOption
from mandate.cli.output import ConsoleReporter, Format
from mandate.errors import DatabaseError, EmbeddedServerError
from mandate.postgres import embedded, programs, target
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer, Status
from mandate.runbook import migrations
from mandate.settings import Loaded

app = typer.Typer(help="Embedded PostgreSQL, schema and generated history.", no_args_is_help=True)

Port = Annotated[
    int | None,
    typer.Option("--port", help="TCP port; without it 5432, or another one when that is taken. 0: any."),
]
Version = Annotated[
    int | None, typer.Option("--version", help="PostgreSQL of a new cluster: 18 (default) or 16.")
]


class StopMode(StrEnum):
    SMART = "smart"
    FAST = "fast"
    IMMEDIATE = "immediate"


Mode = Annotated[
    StopMode,
    typer.Option("--mode", help="fast ends sessions, smart waits for them, immediate is like a crash."),
]
To = Annotated[str, typer.Option("--to", metavar="VERSION", help="Last migration to apply, such as 007.")]
NoExamples = Annotated[
    bool, typer.Option("--no-examples", help="Leave out 003, 004 and 006, which hold example rows.")
]

_STATES = {
    "not-initialised": "there is no cluster yet; `mandate db start` creates one",
    "stopped": "stopped; `mandate db start` starts it",
    "starting": "starting up or shutting down",
    "stale-pid": "stopped, not cleanly (power cut or kill); `mandate db start` recovers it",
    "foreign": "this directory is not Mandate's; it is left alone",
}


@app.command()
@options.command
def start(
    data_dir: DataDir = None,
    port: Port = None,
    version: Version = None,
    format: FormatOption = Format.TEXT,
    config: Config = None,
) -> None:
    """Start the embedded PostgreSQL; the first time, create it. Running already is fine."""
    loaded = _load(config, data_dir, port=port, version=version)
    chosen = loaded.settings.embedded
    fresh = embedded.status(chosen.directory).version is None
    strict = loaded.origin("embedded.version") == "flag"
    server = embedded.start(
        chosen.directory,
        version=chosen.version if fresh or strict else None,
        port=chosen.port,
        reporter=ConsoleReporter(format),
    )
    status = embedded.status(server.data_dir)
    output.emit(format, "db-start", _facts(status), lambda: _start_text(status, loaded))


@app.command()
@options.command
def stop(
    data_dir: DataDir = None,
    mode: Mode = StopMode.FAST,
    format: FormatOption = Format.TEXT,
    config: Config = None,
) -> None:
    """Stop the embedded PostgreSQL. Not running is fine."""
    directory = _load(config, data_dir).settings.embedded.directory
    stopped = embedded.stop(directory, mode=mode.value, reporter=ConsoleReporter(format))
    words = "stopped" if stopped else "was not running"
    data = {"stopped": stopped, "data_dir": directory}
    output.emit(format, "db-stop", data, lambda: f"PostgreSQL in {directory} {words}.")


@app.command()
@options.command
def status(data_dir: DataDir = None, format: FormatOption = Format.TEXT, config: Config = None) -> None:
    """Say whether the embedded PostgreSQL runs, where, and since when. Exits with 0 either way."""
    found = embedded.status(_load(config, data_dir).settings.embedded.directory)
    version = _schema_version(found.server)
    data = {**_facts(found), "schema_version": version}
    output.emit(format, "db-status", data, lambda: _status_text(found, version))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@options.command
def psql(context: typer.Context, data_dir: DataDir = None, dsn: Dsn = None, config: Config = None) -> None:
    """Open the psql that fits the server, on the database in force. What follows -- is psql's."""
    loaded = _load(config, data_dir, dsn=dsn)
    goal = chosen_target(loaded)
    with connect(goal) as session:
        major = session.server_version // 10000
    program = programs.find("psql", major)
    os.execve(program, [str(program), *context.args], programs.environment(goal))


@app.command()
@options.command
def env(data_dir: DataDir = None, format: FormatOption = Format.TEXT, config: Config = None) -> None:
    """Print what makes a shell talk to the embedded PostgreSQL: eval "$(mandate db env)"."""
    loaded = _load(config, data_dir)
    server = _running(loaded)
    variables = _variables(server, loaded)
    unset = [name for name in _MISLEADING if name in os.environ]
    data = {"set": variables, "path_first": server.bin_dir, "unset": unset}
    output.emit(format, "db-env", data, lambda: _exports(server, variables, unset))


@app.command()
@options.command
def init(
    to: To = "newest",
    no_examples: NoExamples = False,
    data_dir: DataDir = None,
    dsn: Dsn = None,
    format: FormatOption = Format.TEXT,
    config: Config = None,
) -> None:
    """Create the database if need be and bring it to a version; what is done already is left."""
    version = migrations.parse_version(to)
    goal = chosen_target(_load(config, data_dir, dsn=dsn))
    result = migrations.init(goal, to=version, examples=not no_examples, reporter=ConsoleReporter(format))
    data = {
        "database": result.database,
        "created": result.created,
        "adopted": result.adopted,
        "version_before": result.version_before,
        "version": result.version_after,
        "applied": [{"file": name, "seconds": round(seconds, 3)} for name, seconds in result.applied],
        "left_out": result.left_out,
    }
    output.emit(format, "db-init", data, lambda: _init_text(result, goal))


def chosen_target(loaded: Loaded) -> Target:
    """The database in force; --data-dir means the embedded server there, whatever else is set."""
    if loaded.origin("embedded.data_dir") == "flag" and loaded.origin("database.dsn") != "flag":
        return _running(loaded).target("mandate")
    return target.resolve(loaded)


def _load(config: Path | None, data_dir: Path | None, **flags: Any) -> Loaded:
    keys = {"port": "embedded.port", "version": "embedded.version", "dsn": "database.dsn"}
    given = {keys[name]: value for name, value in flags.items()}
    return options.load(config, {"embedded.data_dir": data_dir, **given})


def _running(loaded: Loaded) -> EmbeddedServer:
    directory = loaded.settings.embedded.directory
    server = embedded.running(directory)
    if server is None:
        state = embedded.status(directory).state
        raise EmbeddedServerError(
            f"the embedded PostgreSQL in {directory} is not running: {_STATES.get(state, state)}",
            hint="mandate db start" if state != "foreign" else "give the right --data-dir",
            state=state,
        )
    return server


def _schema_version(server: EmbeddedServer | None) -> int | None:
    """Of database mandate; None when it is not there or not Mandate's."""
    if server is None:
        return None
    try:
        with connect(server.target("mandate"), connect_timeout_seconds=3) as session:
            return migrations.schema_version(session)
    except DatabaseError:
        return None


def _facts(status: Status) -> dict[str, Any]:
    return {
        "state": status.state,
        "running": status.server is not None,
        "data_dir": status.data_dir,
        "version": status.version,
        "host": "localhost",
        "port": status.port,
        "socket_dir": status.server.socket_dir if status.server else None,
        "pid": status.pid,
        "started_at": status.started_at,
        "log": status.log,
    }


def _status_text(status: Status, schema_version: int | None) -> str:
    if status.server is None:
        version = f"PostgreSQL {status.version} in " if status.version else ""
        return f"{version}{status.data_dir}: {_STATES.get(status.state, status.state)}"
    lines = _server_lines(status)
    if schema_version is not None:
        words = f"version {schema_version}" if schema_version else "empty; `mandate db init` fills it"
        lines.append(f"  schema    {words}")
    return "\n".join(lines)


def _server_lines(status: Status) -> list[str]:
    server = status.server
    if server is None:
        raise EmbeddedServerError("the server stopped meanwhile")
    since = ""
    if status.started_at:
        seconds = (datetime.now(UTC) - status.started_at).total_seconds()
        since = f" since {status.started_at:%Y-%m-%d %H:%M:%S} UTC ({output.seconds(seconds)})"
    return [
        f"PostgreSQL {server.version} is running{since}.",
        f"  address   localhost:{server.port}, user postgres, database mandate",
        f"  socket    {server.socket_dir}",
        f"  data      {server.data_dir}",
        f"  log       {status.log}",
        f"  process   {server.pid}",
    ]


def _start_text(status: Status, loaded: Loaded) -> str:
    flag = ""
    if loaded.origin("embedded.data_dir") == "flag":
        flag = f" --data-dir {shlex.quote(str(status.data_dir))}"
    return "\n".join(
        [
            *_server_lines(status),
            f'next: eval "$(mandate db env{flag})" makes this shell use it',
        ]
    )


# Variables that would send libpq's programs elsewhere, or ask of the server what it does not have.
_MISLEADING = ("PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGSSLMODE", "DATABASE_URL", "MANDATE_DATABASE__DSN")


def _variables(server: EmbeddedServer, loaded: Loaded) -> dict[str, str]:
    variables = {"PGHOST": "localhost", "PGPORT": str(server.port), "PGUSER": "postgres"}
    if loaded.origin("embedded.data_dir") != "default":
        variables["MANDATE_EMBEDDED__DATA_DIR"] = str(server.data_dir)
    return variables


def _exports(server: EmbeddedServer, variables: Mapping[str, str], unset: list[str]) -> str:
    lines = [f"unset {name}" for name in unset]
    if os.environ.get("PATH", "").split(os.pathsep)[0] != str(server.bin_dir):
        lines.append(f'export PATH={shlex.quote(str(server.bin_dir))}:"$PATH"')
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join(lines)


def _init_text(result: migrations.InitResult, goal: Target) -> str:
    lines = [f"{goal}{': created' if result.created else ''}"]
    if result.adopted:
        lines.append(f"  found at version {result.version_before}, not made by `db init`; recorded as it is")
    lines += [f"  applied   {name:<52} {seconds:>8.2f} s" for name, seconds in result.applied]
    lines += [f"  left out  {name}" for name in result.left_out]
    if result.applied:
        was = f"was {result.version_before}" if result.version_before else "was empty"
        lines.append(f"The database is at version {result.version_after} ({was}).")
    else:
        lines.append(f"The database is at version {result.version_after} already; nothing to do.")
    return "\n".join(lines)


def register(parent: typer.Typer) -> None:
    """Add the group of commands of this module."""
    app.command("seed")(db_seed.command)
    app.command("grant")(db_grant.command)
    parent.add_typer(app, name="db")
