"""The reverse window of a migration: the new version is in use, the old tables are kept to go back to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mandate.postgres.connection import Session, sql
from mandate.rekey import journal
from mandate.runbook.migration import Migration


@dataclass(frozen=True)
class Window:
    """Since when it is open, changes that the kept tables do not have yet, bytes that finalize frees."""

    since: datetime | None
    behind: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def look(session: Session, migration: Migration) -> Window | None:
    """The window of a migration in this database, when it is open."""
    change = journal.load(session, migration.name)
    if change is None or change.status != "swapped":
        return None
    log = sql.Identifier(migration.work, "back_log")
    there = session.value("SELECT to_regclass(%s) IS NOT NULL", (f"{migration.work}.back_log",))
    behind = session.value(sql.SQL("SELECT count(*) FROM {}").format(log)) if there else 0
    size = session.value(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'm')",
        ([migration.retained, migration.work],),
    )
    return Window(change.swapped_at, behind, size)


def tables(session: Session, migration: Migration) -> list[str]:
    """The tables that finalize drops, as schema.table."""
    rows = session.rows(
        "SELECT schemaname || '.' || tablename AS name FROM pg_tables WHERE schemaname = %s ORDER BY 1",
        (migration.retained,),
    )
    return [row["name"] for row in rows]
