"""mandate doctor: what is set and by whom, which database is meant, what this machine has and lacks."""

from __future__ import annotations

import os
import platform
import shutil
import textwrap
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import typer

import mandate
from mandate import settings as configuration
from mandate.cli import db, options, output
from mandate.cli.options import Config, DataDir, Dsn, FormatOption
from mandate.cli.output import Format
from mandate.errors import DatabaseError, MandateError, NoDatabase
from mandate.postgres import embedded, programs
from mandate.postgres.connection import Session, connect, redact
from mandate.runbook import migrations
from mandate.settings import Loaded

Level = Literal["ok", "note", "problem"]

LOW_DISK_BYTES = 1024**3
CLIENT_PROGRAMS = ("psql", "pg_dump", "pg_restore")
MANAGERS = {"compose": ("docker", "docker-compose"), "systemd": ("systemctl",)}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. A `problem` is what a command of Mandate would fail for."""

    subject: str
    level: Level
    text: str
    hint: str = ""


@options.command
def doctor(
    dsn: Dsn = None, data_dir: DataDir = None, format: FormatOption = Format.TEXT, config: Config = None
) -> int:
    """Show where each setting comes from, which database is meant, and what is missing."""
    loaded = options.load(config, {"database.dsn": dsn, "embedded.data_dir": data_dir})
    findings = [*_software(), *_database(loaded), *_services(loaded), *_disks(loaded)]
    rows = [
        {"key": key, "value": redact(value), "origin": loaded.origin(key)}
        for key, value in configuration.describe(loaded.settings).items()
    ]
    problems = [finding for finding in findings if finding.level == "problem"]
    data = {
        "settings_file": loaded.file,
        "settings": rows,
        "findings": [asdict(finding) for finding in findings],
        "problems": [finding.subject for finding in problems],
    }
    output.emit(format, "doctor", data, lambda: _text(loaded, rows, findings, problems))
    return 9 if problems else 0


def _software() -> Iterable[Finding]:
    yield Finding("mandate", "ok", mandate.__version__)
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _tried(
        "migrations", lambda: f"001 to {migrations.files()[-1].version:03} in {migrations.directory()}"
    )
    for major in programs.EMBEDDED_VERSIONS:
        yield _tried(f"PostgreSQL {major}", partial(_embedded_text, major))


def _embedded_text(major: int) -> str:
    found = programs.major_version(programs.embedded_bin(major) / "postgres")
    return f"{found}, comes with the package"


def _tried(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, "ok", look())
    except MandateError as error:
        return Finding(subject, "problem", error.message, error.hint or "")
    except OSError as error:
        return Finding(subject, "problem", f"{error.strerror}: {error.filename}", "install mandate again")


def _database(loaded: Loaded) -> Iterable[Finding]:
    server = embedded.status(loaded.settings.embedded.directory)
    yield Finding("embedded", "ok" if server.server else "note", f"{server.state} in {server.data_dir}")
    try:
        goal = db.chosen_target(loaded)
    except NoDatabase as error:
        yield Finding("database", "note", error.message, error.hint or "")
        return
    except MandateError as error:
        yield Finding("database", "problem", error.message, error.hint or "")
        return
    try:
        with connect(goal, connect_timeout_seconds=5) as session:
            yield Finding("database", "ok", f"{goal} (from {goal.source})")
            yield from _server(session)
    except DatabaseError as error:
        yield Finding("database", "problem", error.message, error.hint or "")


def _server(session: Session) -> Iterable[Finding]:
    try:
        migrations.require_supported(session)
        yield Finding("server", "ok", f"PostgreSQL {session.value('SHOW server_version')}")
        yield _schema(session)
    except MandateError as error:
        yield Finding("server", "problem", error.message, error.hint or "")
    major = session.server_version // 10000
    for name in CLIENT_PROGRAMS:
        yield _tried(name, partial(_program_text, name, major))


def _schema(session: Session) -> Finding:
    version = migrations.schema_version(session)
    if version is None:
        return Finding("schema", "note", "not a Mandate database", "check --dsn")
    if version == 0:
        return Finding("schema", "note", "empty", "mandate db init")
    with_record = f"version {version}, {len(migrations.applied(session))} migrations recorded"
    try:
        migrations.verify_unedited(session)
    except MandateError as error:
        return Finding("schema", "problem", error.message, error.hint or "")
    return Finding("schema", "ok", with_record)


def _program_text(name: str, server_major: int) -> str:
    path = programs.find(name, server_major)
    return f"{programs.major_version(path)} at {path}"


def _services(loaded: Loaded) -> Iterable[Finding]:
    kind = loaded.settings.services.kind
    wanted = MANAGERS.get(kind, ())
    found = [place for name in wanted if (place := shutil.which(name))]
    if not wanted:
        words = "no service manager is set: `run` stops and starts nothing" if kind == "none" else kind
        yield Finding("services", "note" if kind == "none" else "ok", words)
    elif found:
        yield Finding("services", "ok", f"{kind}: {', '.join(found)}")
    else:
        names = " or ".join(wanted)
        yield Finding(
            "services", "problem", f"{kind}: no {names} on PATH", "install it, or set services.kind"
        )


def _disks(loaded: Loaded) -> Iterable[Finding]:
    chosen = loaded.settings
    places = {
        "disk: cluster": chosen.embedded.directory,
        "disk: runs": chosen.run.directory.absolute(),
        "disk: backups": chosen.backup.directory.absolute(),
    }
    for subject, place in places.items():
        yield _disk(subject, place)


def _disk(subject: str, place: Path) -> Finding:
    there = place
    with suppress(PermissionError):
        there = next(parent for parent in [place, *place.parents] if parent.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(subject, "note", f"{place}: {error.strerror}")
    text = f"{output.size(free)} free for {place}"
    if not os.access(there, os.W_OK):
        return Finding(subject, "note", f"{text}, which this user may not write", "run as its owner")
    if free < LOW_DISK_BYTES:
        return Finding(subject, "note", text, "a backup needs about as much as the database")
    return Finding(subject, "ok", text)


def _text(
    loaded: Loaded, rows: list[dict[str, Any]], findings: list[Finding], problems: list[Finding]
) -> str:
    lines = [f"settings (file: {loaded.file or 'none'})"]
    for row in rows:
        origin = row["origin"].split(" ")[0]
        lines += _columns((row["key"], 31), (row["value"], 32), (origin, 11))
    lines.append("\nthis machine")
    for finding in findings:
        lines += _columns((finding.level, 7), (finding.subject, 14), (finding.text, 53))
        if finding.hint:
            lines += _columns(("", 7), ("", 14), (f"next: {finding.hint}", 53))
    names = ", ".join(finding.subject for finding in problems)
    lines.append(f"\nproblems: {names}" if problems else "\nnothing that Mandate needs is missing")
    return "\n".join(lines)


def _columns(*cells: tuple[str, int]) -> list[str]:
    """Cells of fixed width beside each other; what is too long goes on below, but a path stays whole."""
    wrap = partial(textwrap.wrap, break_on_hyphens=False, break_long_words=False)
    wrapped = [wrap(text, width) or [""] for text, width in cells]
    height = max(len(lines) for lines in wrapped)
    rows = []
    for index in range(height):
        parts = (
            (lines[index] if index < len(lines) else "").ljust(width)
            for lines, (_, width) in zip(wrapped, cells, strict=True)
        )
        rows.append(("  " + " ".join(parts)).rstrip())
    return rows


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(doctor)
