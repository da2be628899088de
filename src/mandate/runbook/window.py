"""The reverse window of migration 008: version 8 is in use, version 7's tables are kept to go back to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mandate.postgres.connection import Session, sql
from mandate.rekey import journal
from mandate.runbook import identity

RETAINED = f"mandate_pre_{identity.NAME}"
WORK = f"mandate_rekey_{identity.NAME}"


@dataclass(frozen=True)
class Window:
    """Since when it is open, changes that the kept tables do not have yet, bytes that finalize frees."""

    since: datetime | None
    behind: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def look(session: Session) -> Window | None:
    """The window of this database, when it is open."""
    change = journal.load(session, identity.NAME)
    if change is None or change.status != "swapped":
        return None
    log = sql.Identifier(WORK, "back_log")
    there = session.value("SELECT to_regclass(%s) IS NOT NULL", (f"{WORK}.back_log",))
    behind = session.value(sql.SQL("SELECT count(*) FROM {}").format(log)) if there else 0
    size = session.value(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'm')",
        ([RETAINED, WORK],),
    )
    return Window(change.swapped_at, behind, size)


def tables(session: Session) -> list[str]:
    """The tables that finalize drops, as schema.table."""
    rows = session.rows(
        "SELECT schemaname || '.' || tablename AS name FROM pg_tables WHERE schemaname = %s ORDER BY 1",
        (RETAINED,),
    )
    return [row["name"] for row in rows]
