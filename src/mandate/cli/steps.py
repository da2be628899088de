"""mandate check, verify, probe, rehearse, diagnose: single steps of the guide."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Annotated

import typer

from mandate.cli import options, output, run, run_text
from mandate.cli.output import Format
from mandate.errors import CheckFailed, NeedsPerson, VerificationFailed
from mandate.postgres.connection import Target, connect
from mandate.postgres.target import resolve
from mandate.runbook import checks, conduct, diagnose, guarded, guide, prechecks, probes
from mandate.runbook.migration import Migration
from mandate.settings import Loaded


def _load(
    migration: str, dsn: str | None, config: options.Config, lock_timeout: float | None = None
) -> tuple[Migration, Loaded, Target]:
    chosen = guarded.find(migration)
    loaded = options.load(config, {"database.dsn": dsn, "database.lock_timeout_seconds": lock_timeout})
    return chosen, loaded, resolve(loaded)


@options.command
def check(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Step 4 alone: the pre-migration checks. Exit code 3 when one does not pass."""
    chosen, loaded, target = _load(migration, dsn, config)
    with connect(target, application_name="mandate-check") as session:
        version = conduct.require_version(session)
        if version >= chosen.version:
            data = {"checks": [], "ready": True, "version": version}
            text = f"{target.database} is at version {version} already: nothing to check, nothing to do."
            output.emit(format, "check", data, lambda: text)
            return 0
        guarded.require_version(version, chosen)
        chosen.before_checks(session, loaded.settings)
        prechecks.expect_engine(session)
        report = checks.run(session, chosen.pre_checks, output.ConsoleReporter(format), fixes=chosen.fixes)
    data = {**report.as_evidence(), "ready": report.passed, "version": version}
    output.emit(format, "check", data, lambda: _checked(chosen, report, "READY to migrate"))
    return 0 if report.passed else CheckFailed.exit_code


@options.command
def verify(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Step 6 alone: the post-migration verifications. Exit code 6 when one does not pass."""
    chosen, _, target = _load(migration, dsn, config)
    with connect(target, application_name="mandate-verify") as session:
        version = conduct.require_version(session)
        guarded.require_version(version, chosen)
        report = checks.run(session, chosen.verification, output.ConsoleReporter(format))
    data = {**report.as_evidence(), "verified": report.passed, "version": version}
    output.emit(format, "verify", data, lambda: _checked(chosen, report, "VERIFIED"))
    return 0 if report.passed else VerificationFailed.exit_code


def _checked(chosen: Migration, report: checks.Report, good: str) -> str:
    """The file's own output as psql prints it, then what each check came to."""
    lines = [report.transcript.rstrip(), ""]
    lines += _failing(report)
    passed = f"{report.count('pass')} of {len(report.checks)} checks passed"
    if report.passed:
        lines.append(f"{good}: {passed}.")
    else:
        lines.append(
            f"NOT {good}: {passed}, {report.count('fail')} failed, {report.count('error')} in error."
        )
        lines += run_text.wrapped(
            f"`mandate diagnose {chosen.name}` explains each and proposes a repair", "next: "
        )
    return "\n".join(lines)


def _failing(report: checks.Report) -> Iterator[str]:
    for item in report.failing():
        what = item.error if item.status == "error" else f"{item.result} {item.title}"
        yield from run_text.wrapped(f"{item.id}: {what}", f"{item.status.upper():<6}")
        yield from run_text.run_rows(item.rows)


@options.command
def probe(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Steps 7 and 8 alone: the constraint tests, each rolled back. Exit code 6 when one fails."""
    chosen, _, target = _load(migration, dsn, config)
    with connect(target, application_name="mandate-probe") as session:
        version = conduct.require_version(session)
        guarded.require_version(version, chosen)
        if version != chosen.version:
            raise VerificationFailed(
                f"{target.database} is not at version {chosen.version}:"
                " its constraints are not there to be tested",
                hint=f"`mandate run {chosen.name}` migrates it",
            )
    evidence = probes.run(target, "mandate-probe", output.ConsoleReporter(format), chosen.probes)
    good = probes.passed(evidence)
    output.emit(format, "probe", {**evidence, "passed": good}, lambda: _probed(evidence, good))
    return 0 if good else VerificationFailed.exit_code


def _probed(evidence: dict[str, object], good: bool) -> str:
    results = probes.results(evidence)
    lines: list[str] = []
    for item in results:
        mark = {"pass": "ok  ", "fail": "FAIL", "error": "ERR "}[str(item["status"])]
        lines += run_text.wrapped(str(item["name"]), f"{mark} ")
        lines += run_text.wrapped(str(item["got"]), "       got      ")
        if item["status"] != "pass":
            lines += run_text.wrapped(str(item["expected"]), "       expected ")
    passed = sum(item["status"] == "pass" for item in results)
    lines += ["", f"{passed} of {len(results)} probes as expected; rows left behind: {evidence['rows_left']}"]
    lines += [f"used up: {item}" for item in probes.consumed(evidence)]
    return "\n".join(lines if good else [*lines, "FAILED"])


@options.command
def rehearse(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
    staging: Annotated[
        str | None,
        typer.Option("--staging", help="Run the guide on this staging database instead (services aside)."),
    ] = None,
    online: run.Online = None,
    plain_sql: run.PlainSql = False,
    jobs: run.Jobs = None,
    lock_timeout: run.LockTimeout = None,
    accept: options.Accept = None,
) -> int:
    """Step 3 alone: back up, restore beside, migrate the copy, roll it back, migrate it again.

    The services stay up and the database is only read. The times become the plan of the real run.
    """
    chosen, loaded, target = _load(migration, staging or dsn, config, lock_timeout)
    steps = [step for step in guide.STEPS if step.name in ("backup", "rehearse")]
    request = conduct.Request(
        migration=chosen,
        target=target,
        settings=loaded.settings,
        options=run.run_options(loaded, jobs=jobs, yes=True, accept=accept),
        steps=steps,
        mode=run.asked_mode(online, plain_sql),
        rehearsal=True,
    )
    return run.conduct_and_show(request, format)


@options.command
def diagnose_command(
    migration: run.Migration,
    dsn: options.Dsn = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """What is wrong and what to do: every failing check with its rows and a repair to review."""
    chosen, loaded, target = _load(migration, dsn, config)
    found = diagnose.run(target, chosen, loaded.settings, output.ConsoleReporter(format))
    output.emit(format, "diagnose", found.as_dict(), lambda: _diagnosis(found, target))
    return NeedsPerson.exit_code if found.findings else 0


def _diagnosis(found: diagnose.Diagnosis, target: Target) -> str:
    lines = [f"Diagnosis of {target} (version {found.version})", ""]
    for number, finding in enumerate(found.findings, start=1):
        lines += _finding(number, finding, target)
    if not found.findings:
        lines.append("Every check passes.")
    lines += ["", "Further queries", found.guide.transcript.rstrip()]
    if found.last_error:
        lines += ["", *run_text.wrapped(str(found.last_error["message"]), "last run: ")]
        if found.last_error.get("hint"):
            lines += run_text.wrapped(str(found.last_error["hint"]), "next:     ")
    return "\n".join(lines)


def _finding(number: int, finding: diagnose.Finding, target: Target) -> Iterator[str]:
    item = finding.check
    yield from run_text.wrapped(f"{item.id}: {item.result} {item.title}", f"{number}. {item.status.upper()} ")
    yield from run_text.run_rows(item.rows)
    yield from run_text.wrapped(finding.explanation, "   ")
    if finding.fix:
        where = psql_arguments(target)
        if finding.mapping:
            yield "   Review these names, write them into 008.toml here, and check again:"
            yield from (f"     {line}" for line in finding.mapping.splitlines())
            yield "   Or let the file propose them:"
        yield "   Read the file, then run it:"
        yield f"   psql {where} < {shlex.quote(run_text.short_path(finding.fix))}"
    yield ""


def psql_arguments(target: Target) -> str:
    """psql's arguments for this target; a password is asked for or comes from ~/.pgpass."""
    flags = {"host": "-h", "port": "-p", "user": "-U"}
    parts = [
        f"{flag} {shlex.quote(target.parameters[key])}"
        for key, flag in flags.items()
        if key in target.parameters
    ]
    return " ".join([*parts, shlex.quote(target.database)])


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (check, verify, probe, rehearse):
        app.command()(command)
    app.command("diagnose")(diagnose_command)
