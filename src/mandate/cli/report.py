"""mandate report: a run as a page, text, JSON or JUnit; and whether its evidence still holds."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mandate.cli import options, output
from mandate.errors import UsageError, VerificationFailed
from mandate.postgres.connection import connect
from mandate.postgres.target import resolve
from mandate.runbook import evidence, guarded, journal, signing
from mandate.runbook.evidence import BUNDLE_NAME, Verification
from mandate.runbook.record import RunRecord
from mandate.runbook.report import forms, source
from mandate.settings import Loaded

PAGE = "report.html"


class ReportFormat(StrEnum):
    TEXT = "text"
    HTML = "html"
    JSON = "json"
    JUNIT = "junit"


@options.command
def report(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="MIGRATION|PATH",
            help="Migration, 008 or 009, else the newest run of either; with --verify also a run directory or"
            " its evidence.json.",
        ),
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Run id; the newest run by default.")] = None,
    format: Annotated[
        ReportFormat, typer.Option("--format", help="text and json go to stdout, html to a file.")
    ] = ReportFormat.TEXT,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; - for stdout.", dir_okay=False)
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check a run's signed evidence offline; exit 6 if it fails.")
    ] = False,
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key (PEM) that must have signed the evidence.")
    ] = None,
    dsn: Annotated[
        str | None, typer.Option("--dsn", help="Read the run from the journal of this database.")
    ] = None,
    config: options.Config = None,
) -> int:
    """Report on a run: what happened, what was proven, what to do next.

    The run is found by its directory, or in the database's journal when --dsn is given.
    """
    loaded = options.load(config, {"database.dsn": dsn})
    if verify or key:
        return _verify(subject, run, key, loaded, format)
    record = _record(subject, run, dsn, loaded)
    content = forms.render(record, format.value, datetime.now(UTC))
    if to is None and format is not ReportFormat.HTML:
        _write(content)
        if format is ReportFormat.TEXT:
            _write(_where(record))
    elif to is not None and str(to) == "-":
        _write(content)
    else:
        print(_save(to, record, content))
    return 0


def _migrations(subject: str | None) -> tuple[str, ...]:
    """The names that a run may be recorded under."""
    return (subject,) if subject is not None else tuple(one.name for one in guarded.ALL)


def _record(subject: str | None, run: str | None, dsn: str | None, loaded: Loaded) -> RunRecord:
    if dsn is not None:
        return _from_journal(_migrations(subject), run, loaded)
    record, unreadable = source.find(loaded.settings.run.directory, _migrations(subject), run)
    for reason in unreadable:
        output.stderr.print(f"left out: {reason}", markup=False)
    return record


def _from_journal(migrations: tuple[str, ...], run: str | None, loaded: Loaded) -> RunRecord:
    target = resolve(loaded)
    with connect(target, application_name="mandate-report") as session:
        found = [journal.load_record(session, migration=one, run_id=run) for one in migrations]
    record = max(filter(None, found), key=lambda one: one.started_at, default=None)
    if record is None:
        what = f"run {run}" if run else f"run of migration {' or '.join(migrations)}"
        raise UsageError(
            f"there is no {what} in the journal of {target}",
            hint="without --dsn the run directories are searched",
        )
    return record


def _write(content: str) -> None:
    """To stdout as it is; what the terminal's encoding lacks is shown escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(content.encode(encoding, "backslashreplace").decode(encoding))


def _where(record: RunRecord) -> str:
    page = Path(record.directory) / PAGE
    if page.is_file():
        return f"\nThe same as a page: {page}\n"
    return f"\nThe same as a page: mandate report {record.migration} --run {record.run_id} --format html\n"


def _save(to: Path | None, record: RunRecord, content: str) -> Path:
    path = (to or _page(record, content)).absolute()
    if to is None and path.is_file() and path.read_bytes() == content.encode("utf-8", "backslashreplace"):
        return path
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(content, "utf-8", errors="backslashreplace")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="choose another file with --output"
        ) from error
    return path


def _page(record: RunRecord, content: str) -> Path:
    """In the run directory; a sealed directory is not touched, unless its page is this very page."""
    directory = Path(record.directory)
    page = directory / PAGE
    sealed = (directory / BUNDLE_NAME).exists()
    same = page.is_file() and page.read_bytes() == content.encode("utf-8", "backslashreplace")
    if directory.is_dir() and (same or not sealed):
        return page
    return Path(f"mandate-report-{record.migration}-{record.run_id}.html")


def _verify(
    subject: str | None, run: str | None, key: Path | None, loaded: Loaded, format: ReportFormat
) -> int:
    path = _evidence_path(subject, run, loaded)
    found = evidence.examine(path, key)
    form = output.Format.JSON if format is ReportFormat.JSON else output.Format.TEXT
    if found.problems:
        if form is output.Format.TEXT:
            _write("".join(f"{problem}\n" for problem in found.problems))
        count = len(found.problems)
        raise VerificationFailed(
            f"the evidence of {found.bundle.parent} does not hold: {count} problem{'s' if count > 1 else ''}",
            hint="compare with the copy you trust; do not rely on the files named",
            problems=[vars(problem) for problem in found.problems],
        )
    data = {
        "bundle": str(found.bundle),
        "files": found.files,
        "key_fingerprint": found.key_fingerprint,
        "key_given": found.key_given,
        "predicate": found.predicate,
        "problems": [],
    }
    output.emit(form, "evidence", data, lambda: _good(found))
    return 0


def _evidence_path(subject: str | None, run: str | None, loaded: Loaded) -> Path:
    if subject is not None and not subject.isdigit():
        return Path(subject)
    record, _ = source.find(loaded.settings.run.directory, _migrations(subject), run)
    return Path(record.directory)


def _good(found: Verification) -> str:
    signed = found.predicate or {}
    return "\n".join(
        (
            f"good: {found.bundle}",
            f"run {signed.get('run')} of migration {signed.get('migration')}: {signed.get('status')}",
            f"{found.files} files are what they were when they were signed; none is missing or added",
            f"key {found.key_fingerprint}",
            _meaning(found),
        )
    )


def _meaning(found: Verification) -> str:
    if found.key_given:
        return "this is the key that was given"
    if found.key_fingerprint == signing.own_fingerprint():
        return "this is your own key on this machine"
    return (
        "the key came with the evidence: nothing changed since its holder signed, but who\n"
        "that is, it does not show. Compare the fingerprint, or give --key"
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(report)
