"""mandate rekey: change the keys of anybody's live tables, from a spec."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mandate.cli import control, options, output, rekey_load, rekey_plan
from mandate.cli.output import Format
from mandate.errors import UsageError
from mandate.postgres import lock
from mandate.postgres.connection import Target, connect
from mandate.postgres.target import resolve
from mandate.rekey import cutover as cutting_over
from mandate.rekey import engine, forecast, journal, load, refuse, spec
from mandate.rekey.discover import discover
from mandate.rekey.options import Options
from mandate.runbook import tenant_keys

app = typer.Typer(
    help="Change the keys of live tables: verified before the swap, reversible after it.",
    no_args_is_help=True,
)

SpecFile = Annotated[Path, typer.Argument(help="The spec, a TOML file; see docs/reference/rekey-spec.md.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, max=64, help="Parallel jobs; half the processors online, else all."),
]
Deadline = Annotated[
    float, typer.Option("--deadline", min=0.01, max=60, help="Longest wait of a client, in seconds.")
]


@dataclass(frozen=True)
class _Asked:
    spec: spec.Spec
    target: Target


def _load(file: Path, dsn: str | None, config: Path | None) -> _Asked:
    return _Asked(spec.read(file), resolve(options.load(config, {"database.dsn": dsn})))


def _engine(asked: _Asked, chosen: Options, format: Format) -> engine.Engine:
    """The engine; that of migration 009 does what belongs to it beside the tables. Raises UsageError."""
    reporter = output.ConsoleReporter(format)
    if asked.spec.rekey.name != tenant_keys.NAME:
        return engine.Engine(asked.target, asked.spec, chosen, reporter)
    if asked.spec.model_dump() != tenant_keys.spec().model_dump():
        raise UsageError(
            f"{tenant_keys.NAME} is the name of Mandate's own migration, and its file is another",
            hint="give your change another name, or the file that comes with mandate",
        )
    return tenant_keys.engine(asked.target, reporter, chosen)


@app.command()
@options.command
def plan(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    jobs: Jobs = None,
    deadline: Deadline = 0.5,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample/--no-sample",
            help="Copy for a second, build over that, and roll it back; or read the catalogue alone.",
        ),
    ] = True,
) -> int:
    """What changes, what cannot be carried over, locks, disk, WAL and time; changes nothing."""
    asked = _load(file, dsn, config)
    with connect(asked.target, application_name="mandate-plan", settings={"row_security": "off"}) as session:
        graph = discover(session, asked.spec)
        problems = refuse.problems(session, graph)
        made = forecast.make(
            session,
            asked.target,
            graph,
            jobs=jobs or os.cpu_count() or 1,
            sample=sample and not problems,
            swap=cutting_over.Options(deadline_seconds=deadline),
        )
    data = rekey_plan.document(graph, problems, made)
    output.emit(format, "rekey-plan", data, lambda: rekey_plan.page(asked.target, graph, problems, made))
    return 3 if problems or not rekey_plan.fits(made) else 0


@app.command()
@options.command
def run(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    jobs: Jobs = None,
    accept: options.Accept = None,
    hold_cutover: Annotated[
        bool, typer.Option("--hold-cutover", help="Keep in step and wait for `mandate rekey cutover`.")
    ] = False,
    deadline: Deadline = 0.5,
    attempts: Annotated[
        int | None, typer.Option("--attempts", min=1, help="Give the cutover up after so many; never.")
    ] = None,
    force_space: Annotated[
        bool, typer.Option("--force-space", help="Begin although the new tables seem not to fit the disk.")
    ] = False,
    max_lag: rekey_load.MaxLag = None,
    max_wal_rate: rekey_load.MaxWalRate = None,
    max_sessions: rekey_load.MaxSessions = None,
    max_latency: rekey_load.MaxLatency = None,
    no_throttle: rekey_load.NoThrottle = False,
) -> int:
    """Build the new tables beside the old ones, keep them in step, prove them equal, swap.

    Run it again after a crash: it goes on. Afterwards the old tables are kept in step until finalize.
    It slows down, or waits, while replication, WAL, sessions or commits are beyond a limit.
    """
    asked = _load(file, dsn, config)
    limits = rekey_load.limits(max_lag, max_wal_rate, max_sessions, max_latency, no_throttle)
    chosen = Options(
        jobs=jobs or _jobs(limits),
        limits=limits,
        accept=frozenset(accept or ()),
        swap=cutting_over.Options(deadline_seconds=deadline, attempts=attempts),
        force_space=force_space,
    )
    made = _engine(asked, chosen, format)
    with lock.held(asked.target, f"mandate-rekey {asked.spec.rekey.name} pid {os.getpid()}") as session:
        if hold_cutover:
            journal.begin(session, asked.spec)
            journal.ask(session, asked.spec.rekey.name, hold_cutover=True)
        figures = made.run()
    output.emit(format, "rekey-run", {"phases": figures}, lambda: _swapped(file, asked, figures))
    return 0


def _jobs(limits: load.Limits | None) -> int:
    """With clients at work, half of the processors are theirs."""
    processors = os.cpu_count() or 1
    return processors if limits is None else max(1, processors // 2)


def _swapped(file: Path, asked: _Asked, figures: dict[str, Any]) -> str:
    return "\n".join(
        [
            "",
            f"{asked.spec.rekey.name} is swapped{_waited(figures['cutover'])}.",
            "The old tables are kept in step. Next:",
            f"  mandate rekey finalize {file}   drop them",
            f"  mandate rekey rollback {file}   go back, with everything written since",
        ]
    )


def _waited(swap: Mapping[str, Any]) -> str:
    """Of a swap whose process did not live to say it nobody knows."""
    waited = swap.get("blocked_milliseconds")
    return "" if waited is None else f"; clients waited {waited} ms"


@app.command()
@options.command
def rollback(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    jobs: Jobs = None,
) -> int:
    """Swap the old tables back in, with everything that was written since."""
    figures = _end(file, dsn, config, format, jobs, "rollback")
    text = f"rolled back{_waited(figures)}; nothing was lost"
    output.emit(format, "rekey-rollback", figures, lambda: text)
    return 0


@app.command()
@options.command
def finalize(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    jobs: Jobs = None,
) -> int:
    """Verify once more and drop the old tables: there is no way back after it."""
    figures = _end(file, dsn, config, format, jobs, "finalize")
    output.emit(format, "rekey-finalize", figures, lambda: "finalized: only the record of it is left")
    return 0


def _end(
    file: Path, dsn: str | None, config: Path | None, format: Format, jobs: int | None, how: str
) -> dict[str, Any]:
    asked = _load(file, dsn, config)
    chosen = Options(jobs=jobs or os.cpu_count() or 1)
    made = _engine(asked, chosen, format)
    with lock.held(asked.target, f"mandate-rekey {asked.spec.rekey.name} pid {os.getpid()}"):
        return made.rollback() if how == "rollback" else made.finalize()


@app.command()
@options.command
def status(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until nobody works on it.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
) -> int:
    """Where the change stands, how long it still takes, and why it waits."""
    asked = _load(file, dsn, config)
    name = asked.spec.rekey.name
    if watch:
        return rekey_load.follow(asked.target, name, format, interval)
    return rekey_load.show(asked.target, name, format)


def _ask(file: Path, dsn: str | None, config: Path | None, format: Format, said: str, **changes: Any) -> int:
    asked = _load(file, dsn, config)
    return control.ask(asked.target, asked.spec.rekey.name, format, said, **changes)


@app.command()
@options.command
def pause(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Let a running change stop working until `resume`; capture goes on."""
    return _ask(file, dsn, config, format, control.PAUSED, **control.PAUSE)


@app.command()
@options.command
def resume(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Let a paused change go on."""
    return _ask(file, dsn, config, format, control.RESUMED, **control.RESUME)


@app.command()
@options.command
def throttle(
    file: SpecFile,
    share: control.Share,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Slow a running copy down, or let it go again."""
    return _ask(file, dsn, config, format, control.throttled(share), throttle=share)


@app.command()
@options.command
def cutover(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Release a cutover that --hold-cutover holds."""
    return _ask(file, dsn, config, format, control.RELEASED, **control.RELEASE)


@app.command()
@options.command
def abort(
    file: SpecFile,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """End a change before its swap and leave nothing of it; works whether its run is alive or dead."""
    asked = _load(file, dsn, config)
    made = _engine(asked, Options(), format)
    return control.end(made, format, f"mandate-rekey {asked.spec.rekey.name} pid ")


def register(parent: typer.Typer) -> None:
    """Add the group of commands of this module."""
    parent.add_typer(app, name="rekey")
