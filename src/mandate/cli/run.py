"""mandate run, plan, rehearse: the guide from one command."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from mandate import settings
from mandate.cli import options, output, plan_text, run_text
from mandate.cli.output import Format
from mandate.errors import CheckFailed, MandateError, UsageError
from mandate.postgres.target import resolve
from mandate.runbook import conduct, guarded, guide, modes, notify, planning
from mandate.runbook.modes import Mode
from mandate.runbook.record import RunRecord, StepRecord
from mandate.runbook.step import Options

Migration = Annotated[str, typer.Argument(help="Which migration: 008 or 009.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Answer every go/no-go question with go.")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, max=64, help="Parallel jobs; processors.")]
LockTimeout = Annotated[
    float | None,
    typer.Option("--lock-timeout", min=0.001, max=3600, help="Seconds to wait for each lock; 10."),
]

Online = Annotated[
    bool | None,
    typer.Option(
        "--online/--offline",
        help="Services stay up while the engine works; or they are stopped (the default).",
    ),
]
PlainSql = Annotated[
    bool,
    typer.Option("--plain-sql", help="Migrate with the hand-run file through psql, services stopped."),
]
HoldCutover = Annotated[
    bool, typer.Option("--hold-cutover", help="Keep in step and wait for `mandate cutover`.")
]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.01,
        max=600,
        help="Longest wait of a client at the cutover, in seconds; 0.5 online, else 60.",
    ),
]
Attempts = Annotated[
    int | None,
    typer.Option("--attempts", min=1, help="Give the cutover up after so many; never online, 3 otherwise."),
]
Sample = Annotated[
    bool,
    typer.Option(
        "--sample/--no-sample",
        help="The plan copies for a second, builds over that, rolls it back; or only reads the catalogue.",
    ),
]
Wait = Annotated[
    float, typer.Option("--wait", min=0, max=86400, help="Seconds to wait for another run to end.")
]


def asked_mode(online: bool | None, plain_sql: bool) -> Mode | None:
    """What the flags say; None when they say nothing. Raises UsageError when they contradict."""
    if plain_sql and online:
        raise UsageError(
            "--plain-sql and --online exclude each other: one transaction locks the tables to its end",
            hint="leave one of them out",
        )
    if plain_sql:
        return modes.PLAIN_SQL
    return None if online is None else modes.ONLINE if online else modes.ENGINE


def run_options(
    loaded: settings.Loaded,
    *,
    jobs: int | None,
    yes: bool,
    hold_cutover: bool = False,
    deadline: float | None = None,
    attempts: int | None = None,
    accept: list[str] | None = None,
) -> Options:
    """Options from flags and settings."""
    return Options(
        hold_cutover=hold_cutover,
        deadline_seconds=deadline,
        attempts=attempts,
        jobs=jobs or loaded.settings.backup.jobs or os.cpu_count() or 1,
        lock_timeout_seconds=loaded.settings.database.lock_timeout_seconds,
        assume_yes=yes,
        accept=frozenset(accept or ()),
    )


@options.command
def run(
    migration: Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    yes: Yes = False,
    online: Online = None,
    plain_sql: PlainSql = False,
    first: Annotated[str | None, typer.Option("--from", help="First step to run.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last step to run.")] = None,
    no_rehearsal: Annotated[
        bool, typer.Option("--no-rehearsal", help="Leave the rehearsal out; you have done it before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; change nothing.")] = False,
    sample: Sample = True,
    jobs: Jobs = None,
    lock_timeout: LockTimeout = None,
    hold_cutover: HoldCutover = False,
    deadline: Deadline = None,
    attempts: Attempts = None,
    accept: options.Accept = None,
    wait: Wait = 3.0,
) -> int:
    """Run the whole guide: stop, back up, rehearse, check, migrate, verify, test, restart, record.

    The engine builds the new version beside the old one, proves it equal and swaps; `mandate rollback` goes
    back without loss until `mandate finalize`.

    Run it again after a crash, a failure or a Ctrl-C: it goes on where it may, or says why not.
    """
    chosen = guarded.find(migration)
    loaded = options.load(config, {"database.dsn": dsn, "database.lock_timeout_seconds": lock_timeout})
    target = resolve(loaded)
    request = conduct.Request(
        migration=chosen,
        target=target,
        settings=loaded.settings,
        options=run_options(
            loaded,
            jobs=jobs,
            yes=yes,
            hold_cutover=hold_cutover,
            deadline=deadline,
            attempts=attempts,
            accept=accept,
        ),
        steps=guide.STEPS,
        mode=asked_mode(online, plain_sql),
        first=first,
        last=last,
        leave_out=frozenset({"rehearse"}) if no_rehearsal else frozenset(),
        wait_seconds=wait,
    )
    if dry_run:
        return _show_plan(request, format, sample=sample)
    return conduct_and_show(request, format)


def conduct_and_show(request: conduct.Request, format: Format) -> int:
    """Conduct a run with its progress on stderr and its result on stdout; the exit code."""
    result = conduct.run(request, watcher(request, output.ConsoleReporter(format)))
    if result.record is None or result.nothing is not None:
        return _nothing(result, format)
    return finish(result.record, result.error, request.settings, format)


def show(result: conduct.Result, chosen: settings.Settings, format: Format) -> int:
    """Show what an end of a run came to; 0 when what was asked is done, whatever the run's own code is."""
    if result.record is None or result.nothing is not None:
        return _nothing(result, format)
    finish(result.record, result.error, chosen, format)
    return result.error.exit_code if result.error else 0


def _nothing(result: conduct.Result, format: Format) -> int:
    data = {"run": result.record.as_dict() if result.record else None, "nothing_to_do": result.nothing}
    said = "\n".join(run_text.wrapped(f"Nothing to do: {result.nothing}."))
    output.emit(format, "run", data, lambda: said)
    return 0


def watcher(request: conduct.Request, reporter: output.ConsoleReporter) -> conduct.Watcher:
    """Who shows a run on this terminal."""
    screen = _Screen(reporter, request)
    return conduct.Watcher(reporter, screen.approve, screen.started, screen.step_started, screen.step_ended)


def finish(record: RunRecord, error: MandateError | None, chosen: settings.Settings, format: Format) -> int:
    """Write the report, tell who wants to be told, show the end; the exit code."""
    files, unwritten = _publish(record, chosen)
    told = notify.send(chosen.notify, run_text.subject(record), run_text.body(record))
    data = {
        "run": record.as_dict(),
        "error": error.as_dict() if error else None,
        "report": {name: str(path) for name, path in files.items()},
        "report_error": unwritten.as_dict() if unwritten else None,
        "notified": told,
    }
    output.emit(format, "run", data, lambda: run_text.ending(record, error, files, told))
    if unwritten is not None:
        output.complain(unwritten)
    return record.exit_code or (unwritten.exit_code if unwritten else 0)


def _publish(record: RunRecord, chosen: settings.Settings) -> tuple[Mapping[str, Path], MandateError | None]:
    """The files of the report, or why there are none: how the run went is told all the same."""
    # Templates and cryptography take a third of a second to import; most commands need neither.
    from mandate.runbook import publish

    try:
        return publish.publish(record, chosen.run.signing_key), None
    except MandateError as error:
        return {}, error


class _Screen:
    """What a run shows while it runs, on stderr."""

    def __init__(self, reporter: output.ConsoleReporter, request: conduct.Request) -> None:
        self._reporter = reporter
        self._request = request

    def started(self, record: RunRecord, verb: str, because: str) -> None:
        for line in run_text.opening(record, verb, because, self._request.settings):
            self._reporter.line(line)

    def step_started(self, step: StepRecord) -> None:
        self._reporter.line(run_text.step_begins(step))

    def step_ended(self, step: StepRecord) -> None:
        for line in run_text.step_ends(step):
            self._reporter.line(line)

    def approve(self, step: str, question: str) -> bool:
        """Ask a terminal; without one nobody can approve."""
        if not sys.stdin.isatty():
            return False
        output.stderr.print(f"GO / NO-GO before {step}", style="bold")
        return output.confirm(question)


@options.command
def plan(
    migration: Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    online: Online = None,
    plain_sql: PlainSql = False,
    sample: Sample = True,
    jobs: Jobs = None,
    deadline: Deadline = None,
    accept: options.Accept = None,
) -> int:
    """What a run will do, which locks it takes, how long and how much disk; changes nothing.

    Exit status 3 when the run would refuse: something cannot be carried over, or does not fit the disk.
    """
    chosen = guarded.find(migration)
    loaded = options.load(config, {"database.dsn": dsn})
    request = conduct.Request(
        migration=chosen,
        target=resolve(loaded),
        settings=loaded.settings,
        options=run_options(loaded, jobs=jobs, yes=False, deadline=deadline, accept=accept),
        steps=guide.STEPS,
        mode=asked_mode(online, plain_sql),
    )
    return _show_plan(request, format, sample=sample)


def _show_plan(request: conduct.Request, format: Format, *, sample: bool) -> int:
    """3 when a run by the engine would refuse."""
    made = planning.make(request, sample=sample)
    output.emit(format, "plan", made.as_dict(), lambda: plan_text.page(made))
    return 0 if made.engine is None or made.engine.fits else CheckFailed.exit_code


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(run)
    app.command()(plan)
