"""What rehearsals of a database have measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mandate.postgres.connection import Session
from mandate.runbook import journal
from mandate.runbook.migration import Migration


def newest(session: Session, migration: Migration, mode: str) -> Mapping[str, Any]:
    """What the newest rehearsal of a migration here in that mode recorded, and when (`at`); empty without."""
    if not journal.exists(session):
        return {}
    found = session.row(
        "SELECT s.evidence, s.finished_at FROM mandate_conductor.steps s JOIN mandate_conductor.runs r"
        " USING (run_id) WHERE s.name = 'rehearse' AND s.status = 'passed' AND r.migration = ANY (%s)"
        " AND coalesce(s.evidence ->> 'mode', 'plain-sql') = %s ORDER BY s.finished_at DESC LIMIT 1",
        ([migration.name, migration.rehearsal], mode),
    )
    return {**found["evidence"], "at": found["finished_at"]} if found else {}


def seconds(session: Session, migration: Migration, mode: str) -> dict[str, float]:
    """Seconds per step as that rehearsal measured them."""
    steps = newest(session, migration, mode).get("steps", [])
    return {step["name"]: float(step["seconds"]) for step in steps}
