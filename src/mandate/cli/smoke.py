"""mandate smoke: step 10 of the guide alone."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from typing import Annotated

import typer

from mandate.cli import options, output
from mandate.cli.output import ConsoleReporter, Format
from mandate.errors import NoDatabase, UsageError
from mandate.postgres import target
from mandate.postgres.connection import Session, connect
from mandate.runbook import logs, smoke
from mandate.runbook.smoke import Smoke
from mandate.settings import Loaded


@options.command
def command(
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="The service; http://localhost:3000 by default.")
    ] = None,
    domain: Annotated[
        str | None, typer.Option("--domain", help="Domain to filter by; one with decisions by default.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", help="Look at log lines from this ISO time on; else those of the test itself."
        ),
    ] = None,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> None:
    """Call the API, hold its answers against the database, scan the logs (step 10 of the guide).

    Without a database the answers' form is checked alone. Exit 6 when anything is wrong.
    """
    flags = {"smoke.base_url": base_url, "smoke.domain": domain, "database.dsn": dsn}
    loaded = options.load(config, flags)
    start = _time(since)
    marks = None if start else logs.mark(smoke.log_globs(loaded.settings))
    with ExitStack() as stack:
        session = _session(loaded, stack)
        found = smoke.run(loaded.settings, session, ConsoleReporter(format), marks=marks, since=start)
    if session is None:
        found.warnings.append("no database: the answers were not held against it")
    found.require_passed()
    data = {"status": "passed", **found.evidence, "warnings": found.warnings}
    output.emit(format, "smoke", data, lambda: _text(found))


def _session(loaded: Loaded, stack: ExitStack) -> Session | None:
    try:
        where = target.resolve(loaded)
    except NoDatabase:
        return None
    return stack.enter_context(connect(where, application_name="mandate-smoke"))


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--since {text!r} is not an ISO 8601 time", hint="example: --since 2026-01-31T14:05:00"
        ) from None
    return at.astimezone()


def _text(found: Smoke) -> str:
    lines = [
        f"ok    {call['url']}\n      {call['detail']}, {call['milliseconds']} ms" for call in found.calls
    ]
    if found.logs.files:
        lines.append(f"ok    logs: {found.logs.lines:,} new lines, no error, exception or failure in them")
        lines += [f"      {file}" for file in found.logs.files]
    lines += [f"warn  {warning}" for warning in found.warnings]
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("smoke")(command)
