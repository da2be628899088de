"""mandate rollback: back to version 7 from the backup, with what was written since exported first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mandate.cli import options, output, run, run_text
from mandate.cli.output import Format
from mandate.errors import UsageError
from mandate.postgres.target import resolve
from mandate.runbook import conduct, guide
from mandate.runbook import rollback as rolling_back
from mandate.runbook.written_since import Loss


@options.command
def rollback(
    migration: run.Migration,
    from_backup: Annotated[
        bool, typer.Option("--from-backup", help="Restore the backup of the newest run (or --file).")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--file", help="The backup to restore; the newest run's by default.")
    ] = None,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    yes: run.Yes = False,
    jobs: run.Jobs = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, max=86400, help="Seconds to wait for another run to end.")
    ] = 3.0,
) -> int:
    """Undo the migration: restore the backup beside, export what was written since, swap by name.

    The migrated database is kept under another name. Run it again after a crash: it goes on.
    """
    run.require_008(migration)
    if not from_backup and file is None:
        raise UsageError(
            "say what to go back to",
            hint="mandate rollback 008 --from-backup   (later rows are exported, not kept)",
        )
    loaded = options.load(config, {"database.dsn": dsn})
    request = conduct.Request(
        target=resolve(loaded),
        settings=loaded.settings,
        options=run.run_options(loaded, jobs=jobs, yes=yes),
        steps=guide.STEPS,
        wait_seconds=wait,
    )
    result = rolling_back.from_backup(
        rolling_back.Request(request, file.absolute() if file else None, _asker(yes)),
        run.watcher(request, output.ConsoleReporter(format)),
    )
    assert result.record is not None
    if result.nothing is not None:
        data = {"run": result.record.as_dict(), "nothing_to_do": result.nothing}
        output.emit(format, "run", data, lambda: f"Nothing to do: {result.nothing}.")
        return 0
    run.finish(result.record, result.error, loaded.settings, format)
    return result.error.exit_code if result.error else 0


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
