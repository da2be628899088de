"""mandate backup: step 2 of the guide alone."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from mandate.cli import options, output
from mandate.cli.output import Format
from mandate.errors import BackupFailed
from mandate.postgres import database
from mandate.postgres.connection import Target, connect
from mandate.postgres.target import resolve
from mandate.runbook import backup as backups
from mandate.runbook import migrations, scratch
from mandate.runbook.backup import Backup
from mandate.runbook.scratch import Work


@options.command
def backup(
    dsn: options.Dsn = None,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory for the backup; backup.directory else.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, max=64, help="Parallel jobs; processors by default.")
    ] = None,
    format: options.FormatOption = Format.TEXT,
    config: options.Config = None,
) -> None:
    """Back up the database, and prove the backup by restoring it into a scratch database.

    Step 2 of the guide alone. The database is only read; the scratch database is dropped afterwards.
    """
    loaded = options.load(config, {"database.dsn": dsn, "backup.directory": to, "backup.jobs": jobs})
    chosen = loaded.settings.backup
    target = resolve(loaded)
    _require_mandate(target)
    run_id = f"{scratch.STANDALONE}{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    work = Work(
        target,
        run_id,
        _directory(chosen.directory),
        chosen.jobs or os.cpu_count() or 1,
        output.ConsoleReporter(format),
        f"mandate-{run_id}",
    )
    taken = backups.take(work, chosen.format)
    with work.maintenance() as session:
        database.drop(session, taken.copy.name)
    output.emit(format, "backup", _data(taken), lambda: _text(taken))


def _require_mandate(target: Target) -> None:
    with connect(target) as session:
        migrations.require_supported(session)
        migrations.require_version(session)


def _directory(directory: Path) -> Path:
    place = directory.expanduser().absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackupFailed(
            f"the directory {place} cannot be made: {error.strerror}", hint="choose another with --output"
        ) from None
    return place


def _data(taken: Backup) -> dict[str, object]:
    """The step's evidence, with whole paths and without the scratch database, which is gone."""
    evidence = {key: value for key, value in taken.evidence().items() if key != "scratch_database"}
    return {**evidence, "file": str(taken.path), "manifest": str(taken.manifest)}


def _text(taken: Backup) -> str:
    known = taken.description
    width = max(len(table) for table in known.tables)
    rows = [
        f"  {table:<{width}}  {found.rows:>13,} rows  equal"
        for table, found in sorted(taken.copy.tables.items())
    ]
    return "\n".join(
        [
            f"backup    {taken.path}",
            f"manifest  {taken.manifest}",
            f"sha256    {known.sha256}",
            f"size      {output.size(known.bytes)}, {known.entries} objects",
            f"took      {output.seconds(taken.dump_seconds)} to dump,"
            f" {output.seconds(taken.verify_seconds)} to read through",
            f"proven    restored into a scratch database in {output.seconds(taken.copy.restore_seconds)}"
            " (a rollback",
            "          takes at least as long), compared with the source, and dropped:",
            *rows,
        ]
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(backup)
