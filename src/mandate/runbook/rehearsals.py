"""What rehearsals of a database have measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mandate.postgres.connection import Session
from mandate.runbook import journal


def newest(session: Session, mode: str) -> Mapping[str, Any]:
    """What the newest rehearsal of this database in that mode recorded, and when (`at`); empty without."""
    if not journal.exists(session):
        return {}
    found = session.row(
        "SELECT evidence, finished_at FROM mandate_conductor.steps"
        " WHERE name = 'rehearse' AND status = 'passed'"
        " AND coalesce(evidence ->> 'mode', 'plain-sql') = %s ORDER BY finished_at DESC LIMIT 1",
        (mode,),
    )
    return {**found["evidence"], "at": found["finished_at"]} if found else {}


def seconds(session: Session, mode: str) -> dict[str, float]:
    """Seconds per step as the newest rehearsal of this database in that mode measured them."""
    return {step["name"]: float(step["seconds"]) for step in newest(session, mode).get("steps", [])}
