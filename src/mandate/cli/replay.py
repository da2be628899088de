"""mandate replay: recorded decisions evaluated again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mandate.cli import options, output, replay_text
from mandate.cli.options import Config, Dsn
from mandate.controlplane.replay import CHUNK_DECISIONS, Report, Request, replay
from mandate.errors import MandateError, Terminated, UsageError, VerificationFailed
from mandate.postgres import target


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"
    CSV = "csv"


Candidate = Annotated[
    Path | None,
    typer.Option("--candidate", help="Policies to try, in the format of `mandate apply`; else a self-check."),
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Decisions received from then on: 30d, 12h, or a date."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Decisions received before then.")]
Organization = Annotated[str | None, typer.Option("--organization", help="Name or UUID.")]
Domain = Annotated[str | None, typer.Option("--domain", help="Name, or the UUID that it has or had.")]
Intent = Annotated[str | None, typer.Option("--intent", help="Decisions of this intent only.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", help="Processes; as many as there are processors, 4 at most.")
]
Chunk = Annotated[
    int, typer.Option("--chunk", min=1, help="Decisions at a time: between two notes in --state.")
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Where to note how far it is; the same command goes on from there."),
]
Output = Annotated[Path | None, typer.Option("--output", help="File for the result; else it is printed.")]
FormatOption = Annotated[
    Form, typer.Option("--format", help="text for people, json for programs, csv for spreadsheets.")
]
_WRITERS = {Form.TEXT: replay_text.as_text, Form.JSON: replay_text.as_json, Form.CSV: replay_text.as_csv}


@options.command
def command(
    candidate: Candidate = None,
    since: Since = None,
    until: Until = None,
    organization: Organization = None,
    domain: Domain = None,
    intent: Intent = None,
    jobs: Jobs = None,
    chunk: Chunk = CHUNK_DECISIONS,
    state: State = None,
    output_file: Output = None,
    dsn: Dsn = None,
    format: FormatOption = Form.TEXT,
    config: Config = None,
) -> int:
    """Evaluate recorded decisions again, with their own policies or with others.

    Without --candidate every decision must get the verdict that is recorded: exit code 6 when one does not.
    With --candidate: which verdicts would have been others. The database is only read.
    """
    loaded = options.load(config, {"database.dsn": dsn})
    request = Request(candidate, since, until, organization, domain, intent, _jobs(jobs), state, chunk)
    reporter = output.ConsoleReporter(output.Format.JSON if format is Form.JSON else output.Format.TEXT)
    _check(output_file)
    try:
        with replay(target.resolve(loaded), request, reporter) as report:
            _write(_WRITERS[format](report), output_file)
            if format is Form.CSV or output_file is not None:
                reporter.line("\n".join(replay_text.overview(report)))
            report.finish()
            return _code(report)
    except (KeyboardInterrupt, Terminated):
        if state is not None and state.exists():
            output.stderr.print(f"the same command goes on from {state}", markup=False)
        raise


def _jobs(given: int | None) -> int:
    return min(4, os.cpu_count() or 1) if given is None else given


def _code(report: Report) -> int:
    return 0 if report.candidate is not None or report.all_the_same else VerificationFailed.exit_code


def _check(path: Path | None) -> None:
    """Known before an hour's work rather than after it."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise UsageError(
            f"--output {path} cannot be written", hint="a file in a directory that you may write to"
        )


def _write(pieces: Iterator[str], path: Path | None) -> None:
    """Into the file, all of it or nothing, or onto stdout."""
    if path is None:
        for piece in pieces:
            sys.stdout.write(piece)
        sys.stdout.flush()
        return
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines(pieces)
        temporary.replace(path)
    except OSError as error:
        raise MandateError(f"--output {path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("replay")(command)
