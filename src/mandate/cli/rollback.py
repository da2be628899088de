"""mandate rollback, finalize: back to the version before, or no way back any more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from mandate.cli import options, output, run, run_text
from mandate.cli.output import Format
from mandate.errors import UsageError
from mandate.postgres.target import resolve
from mandate.runbook import conduct, ending, guarded, guide
from mandate.runbook import rollback as rolling_back
from mandate.runbook.migration import Migration
from mandate.runbook.window import Window
from mandate.runbook.written_since import Loss
from mandate.settings import Loaded


@options.command
def rollback(
    migration: run.Migration,
    from_backup: Annotated[
        bool, typer.Option("--from-backup", help="Restore the backup of the newest run (or --file).")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--file", help="The backup to restore; the newest run's by default.")
    ] = None,
    online: run.Online = None,
    deadline: run.Deadline = None,
    attempts: run.Attempts = None,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    yes: run.Yes = False,
    jobs: run.Jobs = None,
    wait: run.Wait = 3.0,
) -> int:
    """Undo the migration, with everything that was written since: swap the old version's tables back in.

    With --from-backup: restore the backup beside, export what was written since, swap by name; the migrated
    database is kept under another name. Run it again after a crash: it goes on.
    """
    chosen = guarded.find(migration)
    restores = from_backup or file is not None
    if restores and (online or deadline is not None or attempts is not None):
        raise UsageError(
            "--online, --deadline and --attempts are for the rollback without loss",
            hint="leave them out, or --from-backup",
        )
    loaded = options.load(config, {"database.dsn": dsn})
    request = _request(chosen, loaded, jobs=jobs, yes=yes, wait=wait, deadline=deadline, attempts=attempts)
    watcher = run.watcher(request, output.ConsoleReporter(format))
    if restores:
        archive = file.absolute() if file else None
        result = rolling_back.from_backup(rolling_back.Request(request, archive, _asker(yes)), watcher)
    else:
        asker = _window_asker(chosen, yes, f"Go back to version {chosen.before}?", _going_back)
        result = ending.lossless(ending.Request(request, asker, online), watcher)
    return run.show(result, loaded.settings, format)


@options.command
def finalize(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    yes: run.Yes = False,
    jobs: run.Jobs = None,
    wait: run.Wait = 3.0,
) -> int:
    """Drop the old version's tables: the disk is given back, and there is no way back without loss any more.

    Both sides are compared once more before anything is dropped.
    """
    chosen = guarded.find(migration)
    loaded = options.load(config, {"database.dsn": dsn})
    request = _request(chosen, loaded, jobs=jobs, yes=yes, wait=wait)
    asker = _window_asker(chosen, yes, f"Drop version {chosen.before}'s tables?", _dropping)
    result = ending.finalize(
        ending.Request(request, asker), run.watcher(request, output.ConsoleReporter(format))
    )
    return run.show(result, loaded.settings, format)


def _request(
    chosen: Migration,
    loaded: Loaded,
    *,
    jobs: int | None,
    yes: bool,
    wait: float,
    deadline: float | None = None,
    attempts: int | None = None,
) -> conduct.Request:
    return conduct.Request(
        migration=chosen,
        target=resolve(loaded),
        settings=loaded.settings,
        options=run.run_options(loaded, jobs=jobs, yes=yes, deadline=deadline, attempts=attempts),
        steps=guide.STEPS,
        wait_seconds=wait,
    )


def _window_asker(
    chosen: Migration, yes: bool, question: str, text: Callable[[Migration, Window], Iterator[str]]
) -> ending.Approve:
    """Shows what it means, asks a terminal."""

    def approve(window: Window) -> bool:
        for line in text(chosen, window):
            output.stderr.print(line, markup=False)
        return yes or (sys.stdin.isatty() and output.confirm(question))

    return approve


def _going_back(chosen: Migration, window: Window) -> Iterator[str]:
    yield from run_text.wrapped(
        f"Version {chosen.before}'s tables come back with everything written since"
        f" {window.since:%Y-%m-%d %H:%M}: {window.behind:,} changes are taken over first. Nothing is lost."
    )


def _dropping(chosen: Migration, window: Window) -> Iterator[str]:
    yield from run_text.wrapped(
        f"Version {chosen.before}'s tables, kept since {window.since:%Y-%m-%d %H:%M}, are compared once more"
        f" and dropped: {output.size(window.bytes)} are given back. After that going back means restoring the"
        " backup."
    )


def _asker(yes: bool) -> rolling_back.Approve:
    """Shows what goes, asks a terminal."""

    def approve(loss: Loss) -> bool:
        for line in _loss(loss):
            output.stderr.print(line, markup=False)
        if yes:
            return True
        if not sys.stdin.isatty():
            return False
        return output.confirm("Swap the restored database in?")

    return approve


def _loss(loss: Loss) -> list[str]:
    if not loss.total:
        return ["Nothing was written since the backup: nothing is lost."]
    lines = [f"{loss.total:,} rows were written since the backup and go with the rollback:"]
    lines += [f"  {table:<36} {rows:>12,}" for table, rows in loss.rows.items()]
    lines += [*run_text.wrapped(run_text.short_path(str(loss.export)), "They are exported to ")]
    return lines


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(rollback)
    app.command()(finalize)
