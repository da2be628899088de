"""Guide step 11: execution log in the guide's form, backup archived and linked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mandate.errors import NeedsPerson
from mandate.postgres import database, programs
from mandate.postgres.connection import Session
from mandate.runbook import backup
from mandate.runbook.step import Context, Outcome

LINK_NAME = "latest_mandate_backup.sql"


@dataclass(frozen=True)
class Record:
    name: str = "record"
    title: str = "Record and archive"
    guide: str = "11"
    exit_code: int = NeedsPerson.exit_code

    def run(self, context: Context) -> Outcome:
        """Archive the backup, write the log. Safe to run again: what is in place stays."""
        archive = _archive(context)
        _drop_scratch(context)
        with context.session() as session:
            logged = session.row(
                "SELECT id, executed_at FROM mandate.migration_log WHERE migration_version = %s"
                " ORDER BY id DESC LIMIT 1",
                (context.migration.version,),
            )
            text = _execution_log(context, session, archive)
        log = context.directory / f"migration_{context.migration.name}_execution_log.txt"
        log.write_text(text, "utf-8")
        _link(_working_directory(context) / log.name, log)
        return Outcome(
            f"backup archived as {archive.name}" if archive else "no backup to archive",
            {
                "execution_log": log.name,
                "archive": str(archive) if archive else None,
                "link": str(_working_directory(context) / LINK_NAME) if archive else None,
                "migration_log": {key: str(value) for key, value in (logged or {}).items()},
            },
            warnings=() if archive else ("this run made no backup",),
        )


def _working_directory(context: Context) -> Path:
    """Where the guide's operator stands: backups/ is below it."""
    return context.settings.backup.directory.absolute().parent


def _archive(context: Context) -> Path | None:
    """Move the backup to backups/ and link it as the latest, as the guide's last block does."""
    taken = context.results.get("backup", {})
    if "file" not in taken:
        return None
    source = context.directory / str(taken["file"])
    place = context.settings.backup.directory.absolute()
    archive = place / source.name
    if source.exists():
        archive = backup.archive(source, context.directory / str(taken["manifest"]), place)
    elif not archive.exists():
        raise NeedsPerson(f"the backup {source} is gone", hint="find it, put it back, then run again")
    _link(_working_directory(context) / LINK_NAME, archive)
    return archive


def _drop_scratch(context: Context) -> None:
    """The copy that proved the backup; a rehearsal has dropped it already."""
    name = context.results.get("backup", {}).get("scratch_database")
    if name:
        with database.maintenance(context.target, context.application_name) as keeper:
            database.drop(keeper, str(name))


def _link(link: Path, target: Path) -> None:
    """Point `link` at `target`, replacing an older link but never a file that somebody wrote."""
    if link.exists() and not link.is_symlink():
        raise NeedsPerson(f"{link} is a file, not a link", hint="move it away, then run again")
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)


def _execution_log(context: Context, session: Session, archive: Path | None) -> str:
    psql = programs.find("psql", session.server_version // 10000)

    def count(query: str) -> str:
        return programs.run([psql, "-X", "-t", "-c", query], context.target).rstrip("\n")

    results = context.results
    elapsed = results.get("migrate", {}).get("seconds")
    return "\n".join(
        [
            f"Migration: {context.migration.name} - {context.migration.title}",
            f"Executed: {datetime.now().astimezone():%a %b %e %H:%M:%S %Z %Y}",
            f"Duration: {round(elapsed) if elapsed is not None else 'unknown'} seconds",
            f"Backup: {archive.name if archive else 'NONE'}",
            f"Pre-checks: {_passed(results, 'check')}",
            f"Migration: {'SUCCESS' if 'migrate' in results else 'NOT RUN'}",
            f"Post-checks: {_passed(results, 'verify')}",
            f"Tests: {_passed(results, 'probe')}",
            f"Services: {'RESTARTED' if 'restart' in results else 'NOT RESTARTED'}",
            f"Status: {_status(results)}",
            "",
            *(f"{label}: {count(query)}" for label, query in context.migration.log),
            "",
        ]
    )


def _passed(results: Mapping[str, Mapping[str, Any]], step: str) -> str:
    return "PASSED" if step in results else "NOT RUN"


def _status(results: Mapping[str, Mapping[str, Any]]) -> str:
    needed = ("backup", "check", "migrate", "verify", "probe")
    return "COMPLETE" if all(step in results for step in needed) else "INCOMPLETE"


STEP = Record()
