"""mandate serve: the HTTP service."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mandate.cli import options, output
from mandate.cli.options import Config, DataDir, Dsn, FormatOption
from mandate.cli.output import Format
from mandate.errors import NoDatabase
from mandate.postgres.connection import Target
from mandate.postgres.target import resolve
from mandate.settings import Loaded

if TYPE_CHECKING:
    from mandate.controlplane.server import Listening

Host = Annotated[
    str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1. Any but loopback needs tokens.")
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", min=0, max=65535, metavar="PORT", help="Port; 3000. 0 takes a free one and says which."
    ),
]
LogDir = Annotated[
    Path | None,
    typer.Option("--log-dir", help="Directory of mandate-serve.log; /var/log/mandate when writable."),
]
PidFile = Annotated[
    Path | None, typer.Option("--pid-file", help="Written when listening, removed at the end.")
]


@options.command
def serve(
    host: Host = None,
    port: Port = None,
    dsn: Dsn = None,
    data_dir: DataDir = None,
    log_dir: LogDir = None,
    pid_file: PidFile = None,
    config: Config = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Answer HTTP requests about decisions and verdicts until SIGTERM or Ctrl-C.

    Starts without a database too: /readyz says 503 until one is there.
    """
    from mandate.controlplane import server  # the HTTP stack, half a second that no other command needs

    flags = {
        "serve.host": host,
        "serve.port": port,
        "serve.log_dir": log_dir,
        "database.dsn": dsn,
        "embedded.data_dir": data_dir,
    }
    loaded = options.load(config, flags)
    database = _database(loaded)

    def announce(listening: Listening) -> None:
        output.emit(format, "serve", asdict(listening), lambda: _text(listening, database))
        output.flush()

    server.run(loaded.settings.serve, lambda: resolve(loaded), announce, pid_file)


def _database(loaded: Loaded) -> Target | None:
    """The database as it is known now; a DSN that cannot be meant stops the start."""
    try:
        return resolve(loaded)
    except NoDatabase:
        return None


def _text(listening: Listening, database: Target | None) -> str:
    where = f"{database} ({database.source})" if database else "none yet; /readyz says 503 until there is one"
    return (
        f"Listening on {listening.url}   pid {listening.pid}\n"
        f"  database  {where}\n"
        f"  log       {listening.log_file}\n"
        "  stop      Ctrl-C or SIGTERM" + _warning(listening)
    )


def _warning(listening: Listening) -> str:
    if listening.excess is None:
        return ""
    return (
        f"\n  warning   it is connected as {listening.excess}: a member of mandate_runtime would do"
        "\n            (`mandate db grant` makes the role)"
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(serve)
