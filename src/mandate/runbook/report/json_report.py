"""The report as data: the run with both lists derived from its evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from mandate.postgres.connection import redact
from mandate.runbook.checklist import ticked
from mandate.runbook.record import RunRecord
from mandate.runbook.report.verdict import verdict

SCHEMA = "mandate.report/1"


def document(record: RunRecord) -> dict[str, Any]:
    """JSON-able data: schema, verdict, and every field of the record; no password in any string."""
    told = verdict(record)
    found: dict[str, Any] = _plain(
        {
            "schema": SCHEMA,
            "verdict": {"tone": told.tone, "headline": told.headline, "lead": told.lead, "state": told.state},
            **ticked(record).as_dict(),
        }
    )
    return found


def render(record: RunRecord) -> str:
    """The document as JSON text in ASCII, so that it survives any terminal and any text in it."""
    return json.dumps(document(record), indent=1) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float) else redact(str(value))
