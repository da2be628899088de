"""Whether a backup made earlier in a run still is the backup of what the database holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mandate.postgres.connection import Session, Target, connect, sql

JOURNAL_SCHEMA = "mandate_conductor"


def why_stale(
    target: Target, directory: Path, evidence: Mapping[str, Any], *, rows_may_differ: bool = False
) -> str | None:
    """A reason to make the backup again, or None.

    The tables are append-only, so equal row counts mean equal rows. `rows_may_differ`: services write on,
    so that no backup holds everything; going back does not need it to.
    """
    path = directory / str(evidence.get("file", ""))
    if not path.exists():
        return f"{path.name} is gone"
    if path.is_file() and sha256(path) != evidence.get("sha256"):
        return f"{path.name} is not the file that was proven (its sha256 differs)"
    if rows_may_differ:
        return None
    with connect(target) as session:
        for table in evidence.get("tables", []):
            if reason := _rows_changed(session, str(table["table"]), int(table["rows"])):
                return reason
    return None


def _rows_changed(session: Session, name: str, rows: int) -> str | None:
    schema, _, table = name.rpartition(".")
    if schema == JOURNAL_SCHEMA:
        return None
    relation = sql.Identifier(schema or "mandate", table)
    now = session.value(sql.SQL("SELECT count(*) FROM {}").format(relation))
    return None if now == rows else f"{name} had {rows:,} rows then and has {now:,} now"


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
