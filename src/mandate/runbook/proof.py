"""Proof that a migration kept every row: fingerprints of each table before and after it.

What a row amounts to on either side is the migration's own affair, and so is which tables it makes; a table
that it does not know is compared as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mandate.postgres.connection import Session, Target, connect, sql
from mandate.progress import Reporter
from mandate.rekey.fingerprint import Fingerprint, fingerprint

SCHEMA = "mandate"

# The rows of a table with these columns, before the migration or (True) after it; None: as they are.
Rows = Callable[[Session, str, Sequence[str], bool], sql.Composable | None]


@dataclass(frozen=True)
class Proof:
    """How a migration's rows are compared. `new`: tables that it makes or writes to itself."""

    new: frozenset[str]
    rows: Rows


def before(proof: Proof, target: Target, reporter: Reporter) -> dict[str, str]:
    """Fingerprints of the old version by table, as text. Raises DatabaseError."""
    return _take(proof, target, reporter, "fingerprint before", migrated=False)


def after(proof: Proof, target: Target, reporter: Reporter) -> dict[str, str]:
    """Fingerprints of the new version by table, comparable with those of `before`. Raises DatabaseError."""
    return _take(proof, target, reporter, "fingerprint after", migrated=True)


def compare(earlier: Mapping[str, str], later: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per table: {table, rows_before, rows_after, before, after, equal}."""
    rows = []
    for table in sorted(earlier.keys() | later.keys()):
        old, new = earlier.get(table), later.get(table)
        rows.append(
            {
                "table": f"{SCHEMA}.{table}",
                "rows_before": Fingerprint.parse(old).rows if old else None,
                "rows_after": Fingerprint.parse(new).rows if new else None,
                "before": old,
                "after": new,
                "equal": old is not None and old == new,
            }
        )
    return rows


def _take(proof: Proof, target: Target, reporter: Reporter, label: str, *, migrated: bool) -> dict[str, str]:
    with connect(target, application_name="mandate-proof") as session:
        columns = _columns(session)
        tables = [table for table in columns if table not in proof.new]
        found: dict[str, str] = {}
        with reporter.task(label, total=len(tables), unit="tables") as task:
            for done, table in enumerate(tables):
                task.update(done, note=table)
                rows = proof.rows(session, table, columns[table], migrated)
                found[table] = str(fingerprint(session, rows or sql.Identifier(SCHEMA, table)))
        return found


def _columns(session: Session) -> dict[str, list[str]]:
    rows = session.rows(
        'SELECT c.relname AS "table", array_agg(a.attname::text ORDER BY a.attname) AS columns'
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r' GROUP BY 1 ORDER BY 1",
        (SCHEMA,),
    )
    return {row["table"]: row["columns"] for row in rows}
