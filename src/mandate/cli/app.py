"""The command tree. Each group of commands lives in a module of its name, imported when it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import pairwise
from typing import Annotated

import typer

import mandate
from mandate.cli import output
from mandate.errors import UsageError

# Command -> the module that registers it. In the order of --help.
COMMANDS = {
    "run": "run",
    "plan": "run",
    "check": "steps",
    "verify": "steps",
    "probe": "steps",
    "rehearse": "steps",
    "diagnose": "steps",
    "status": "watch",
    "watch": "watch",
    "pause": "control",
    "resume": "control",
    "throttle": "control",
    "cutover": "control",
    "abort": "control",
    "rollback": "rollback",
    "finalize": "rollback",
    "smoke": "smoke",
    "backup": "backup",
    "report": "report",
    "demo": "demo",
    "doctor": "doctor",
    "serve": "serve",
    "apply": "apply",
    "replay": "replay",
    "token": "token",
    "rekey": "rekey",
    "db": "db",
}


def build(only: str | None = None) -> typer.Typer:
    """The whole tree, or just the module that has the command `only`: starting should not take a second."""
    app = typer.Typer(
        name="mandate",
        help="A control plane for AI agents' decisions, and the conductor that migrates its record.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    modules = [COMMANDS[only]] if only in COMMANDS else list(dict.fromkeys(COMMANDS.values()))
    for module in modules:
        import_module(f"mandate.cli.{module}").register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mandate {mandate.__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Root of the command tree."""


def main() -> None:
    """Entry point of the `mandate` command."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"mandate {mandate.__version__}")
        return
    app = build(arguments[0] if arguments else None)
    if not _wants_json(arguments):
        app()
    # Typer tells of a flag that it does not know on stderr only; a program reads stdout.
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        output.fail(UsageError(_said(error), hint="--help lists what there is"), output.Format.JSON)
    sys.exit(code)


def _wants_json(arguments: list[str]) -> bool:
    return "--format=json" in arguments or ("--format", "json") in pairwise(arguments)


def _said(error: typer.TyperException) -> str:
    message = getattr(error, "format_message", lambda: str(error))()
    return str(message).strip() or "a command is missing"
