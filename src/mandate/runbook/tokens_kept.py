"""Tokens across a rollback from a backup: they stay as they are in the database that goes.

A restore alone would bring to life again what was revoked since the backup, and lose what was made since.
"""

from __future__ import annotations

from pathlib import Path

from mandate.postgres import dump, programs
from mandate.postgres.connection import Session, Target

SCHEMA = "mandate_access"


def save(session: Session, target: Target, directory: Path) -> Path | None:
    """A file with the tokens of the database that the session is in; None where there never were any.

    Raises ProgramError, OSError.
    """
    if session.value("SELECT to_regnamespace(%s)", (SCHEMA,)) is None:
        return None
    file = directory / "tokens.sql"
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    tool = dump.client(session.server_version // 10000)
    options = (f"--schema={SCHEMA}", "--clean", "--if-exists", f"--file={file}")
    programs.run([tool.pg_dump, *options], target)
    return file


def put(file: Path, server_version: int, target: Target) -> None:
    """Replace a database's tokens by those of the file, which is gone afterwards. Raises ProgramError."""
    psql = programs.find("psql", server_version // 10000)
    programs.run([psql, "-X", "-q", "--single-transaction", "-v", "ON_ERROR_STOP=1"], target, stdin=file)
    file.unlink()
