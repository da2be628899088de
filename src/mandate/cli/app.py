"""The command tree. Each group of commands lives in a module of its name."""

from __future__ import annotations

from typing import Annotated

import typer

import mandate
from mandate.cli import (
    backup,
    db,
    db_seed,
    demo,
    doctor,
    report,
    rollback,
    run,
    serve,
    smoke,
    steps,
    watch,
)

app = typer.Typer(
    name="mandate",
    help="A control plane for AI agents' decisions, and the conductor that migrates its record.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
db.app.command("seed")(db_seed.command)
app.add_typer(db.app, name="db")
run.register(app)
steps.register(app)
watch.register(app)
rollback.register(app)
app.command("smoke")(smoke.command)
app.command()(backup.backup)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(report.report)
app.command()(serve.serve)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mandate {mandate.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Root of the command tree."""


def main() -> None:
    """Entry point of the `mandate` command."""
    app()
