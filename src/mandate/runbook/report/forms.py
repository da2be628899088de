"""A record in one of its forms."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from mandate.runbook.evidence import inventory
from mandate.runbook.record import RunRecord
from mandate.runbook.report import html, json_report, junit, text


def render(record: RunRecord, form: str, now: datetime | None = None) -> str:
    """The report as html, json, junit or text. The page lists the run directory's files, if it is there.

    `now` is for a run that has not ended.
    """
    if form == "html":
        directory = Path(record.directory)
        return html.render(record, inventory(directory) if directory.is_dir() else [], now)
    if form == "json":
        return json_report.render(record)
    return junit.render(record) if form == "junit" else text.render(record, now)
