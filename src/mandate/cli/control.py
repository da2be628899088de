"""mandate pause, resume, throttle, cutover, abort: control of a running change from another terminal."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from mandate.cli import options, output, run
from mandate.cli.output import Format
from mandate.errors import NeedsPerson, RunLocked
from mandate.postgres import lock
from mandate.postgres.connection import Target, connect
from mandate.postgres.target import resolve
from mandate.rekey import journal
from mandate.rekey.engine import Engine
from mandate.runbook import guarded
from mandate.runbook.migration import Migration

Share = Annotated[
    float,
    typer.Argument(min=0.01, max=1, help="Share of the time that the copy may work; 1 is all of it."),
]

# What a command asks of a change, and what it says then: of Mandate's own and of any other alike.
PAUSE: dict[str, Any] = {"paused": True}
RESUME: dict[str, Any] = {"paused": False}
RELEASE: dict[str, Any] = {"hold_cutover": False}
PAUSED = "asked to pause; clients go on, and what they change is noted"
RESUMED = "asked to go on"
RELEASED = "the cutover is released"


def throttled(share: float) -> str:
    """What is said about a new share."""
    return f"the copy may work {share:.0%} of the time"


def ask(target: Target, name: str, format: Format, said: str, **changes: Any) -> int:
    """Ask something of the change called `name`. Raises NeedsPerson when none is under way."""
    with connect(target, application_name="mandate-control") as session:
        if not journal.exists(session) or not journal.ask(session, name, **changes):
            raise NeedsPerson(
                f"there is no change called {name} under way", hint="`mandate status` says what is"
            )
    output.emit(format, "rekey-control", {"asked": changes}, lambda: said)
    return 0


def end(made: Engine, format: Format, runs: str) -> int:
    """End a change before its swap, whether its run is alive (then it is asked) or dead (then at once).

    `runs`: how the names of sessions begin that hold the lock for this change. Raises RunLocked when it is
    somebody else who holds it: that says nothing of whether a run of this change is alive.
    """
    try:
        with lock.held(made.target, f"mandate-abort {made.name} pid {os.getpid()}", wait_seconds=0):
            made.sweep()
    except RunLocked as error:
        ours = error.fields.get("holder", {}).get("application", "").startswith(runs)
        # What goes back, or ends the window, is not aborted.
        if not ours or not _is_running(made):
            raise
        return ask(made.target, made.name, format, "asked to abort", abort=True)
    said = f"{made.name}: nothing of it is left"
    output.emit(format, "rekey-control", {"aborted": made.name}, lambda: said)
    return 0


def _is_running(made: Engine) -> bool:
    with connect(made.target, application_name="mandate-control") as session:
        return journal.status(session, made.name) == "running"


def _found(migration: str, dsn: str | None, config: options.Config) -> tuple[Migration, Target]:
    chosen = guarded.find(migration)
    return chosen, resolve(options.load(config, {"database.dsn": dsn}))


def _ask(
    migration: str, dsn: str | None, config: options.Config, format: Format, said: str, **changes: Any
) -> int:
    chosen, target = _found(migration, dsn, config)
    return ask(target, chosen.name, format, said, **changes)


@options.command
def pause(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Let a running migration stop working until `resume`; clients go on."""
    return _ask(migration, dsn, config, format, PAUSED, **PAUSE)


@options.command
def resume(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Let a paused migration go on."""
    return _ask(migration, dsn, config, format, RESUMED, **RESUME)


@options.command
def throttle(
    migration: run.Migration,
    share: Share,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Slow the copy of a running migration down, or let it go again."""
    return _ask(migration, dsn, config, format, throttled(share), throttle=share)


@options.command
def cutover(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Release the cutover that `mandate run --hold-cutover` holds."""
    return _ask(migration, dsn, config, format, RELEASED, **RELEASE)


@options.command
def abort(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """End a migration before its swap and drop what it built, whether its run is alive or dead."""
    chosen, target = _found(migration, dsn, config)
    return end(chosen.engine(target, output.ConsoleReporter(format), None), format, "mandate-run")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (pause, resume, throttle, cutover, abort):
        app.command()(command)
