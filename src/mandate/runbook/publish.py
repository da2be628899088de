"""Writes what a run leaves behind for people and programs into its directory."""

from __future__ import annotations

from pathlib import Path

from mandate.errors import NeedsPerson
from mandate.runbook import evidence
from mandate.runbook.record import RunRecord
from mandate.runbook.report import html, json_report, junit, text


def publish(record: RunRecord, signing_key: Path | None = None) -> dict[str, Path]:
    """Write report.html, report.json, report.xml, report.txt and the signed evidence.json; their paths.

    Raises NeedsPerson when the run directory cannot be written.
    """
    directory = Path(record.directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        texts = {
            "report.json": json_report.render(record),
            "report.xml": junit.render(record),
            "report.txt": text.render(record),
            "report.html": html.render(record, evidence.inventory(directory)),
        }
        for name, content in texts.items():
            (directory / name).write_text(content, "utf-8")
        signed = evidence.bundle(directory, record, signing_key)
    except OSError as error:
        raise NeedsPerson(
            f"the report cannot be written to {directory}: {error.strerror}",
            hint=f"`mandate report {record.migration}` writes it again when there is room",
        ) from error
    return {"report": directory / "report.html", "evidence": signed}
