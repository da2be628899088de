"""mandate db seed: a generated history, the same for the same arguments."""

from __future__ import annotations

from typing import Annotated

import typer

from mandate.cli import options, output
from mandate.cli.options import Config, Dsn, FormatOption
from mandate.cli.output import ConsoleReporter, Format
from mandate.controlplane import seed
from mandate.controlplane.seed import Parameters, Summary
from mandate.postgres import target

Decisions = Annotated[int, typer.Option("--decisions", help="How many, each with verdict and timeline.")]
Domains = Annotated[int, typer.Option("--domains", help="How many, over three or more organizations.")]
Skew = Annotated[
    float, typer.Option("--skew", help="Zipf exponent of decisions over domains; 0 spreads them evenly.")
]
Seed = Annotated[int, typer.Option("--seed", help="Another number gives another history.")]
Until = Annotated[
    str | None, typer.Option("--until", metavar="DATE", help="When the history ends; 2026-01-01 by default.")
]
Days = Annotated[int, typer.Option("--days", help="How long the history is.")]
Append = Annotated[
    bool, typer.Option("--append", help="Beside decisions that are there; slower, the indexes stay.")
]


@options.command
def command(
    decisions: Decisions = 10_000,
    domains: Domains = 12,
    skew: Skew = 1.0,
    seed_number: Seed = 1,
    until: Until = None,
    days: Days = 180,
    append: Append = False,
    dsn: Dsn = None,
    format: FormatOption = Format.TEXT,
    config: Config = None,
) -> None:
    """Fill a database of version 7 or 8 with a generated history, in one transaction."""
    parameters = Parameters(decisions, domains, skew, seed_number, seed.parse_until(until), days)
    loaded = options.load(config, {"database.dsn": dsn})
    summary = seed.load(
        target.resolve(loaded),
        parameters,
        ConsoleReporter(format),
        append=append,
        lock_timeout_seconds=loaded.settings.database.lock_timeout_seconds,
    )
    output.emit(format, "seed", summary.as_dict(), lambda: _text(summary))


def _text(summary: Summary) -> str:
    if summary.already:
        return f"database {summary.database!r} holds this history already; nothing was changed"
    lines = [
        f"seeded {summary.database!r} (version {summary.version}) from {summary.parameters.since:%Y-%m-%d}"
        f" to {summary.parameters.until:%Y-%m-%d}, seed {summary.parameters.seed}",
        "",
        *(f"  {table:<24} {rows:>13,} rows" for table, rows in summary.rows.items()),
        f"  {'total':<24} {summary.total_rows:>13,} rows",
        "",
        *(f"  {phase:<24} {taken:>13,.1f} s" for phase, taken in summary.seconds.items()),
        f"  {'total':<24} {summary.total_seconds:>13,.1f} s   {summary.rows_per_second or 0:,.0f} rows/s",
    ]
    return "\n".join(lines)
