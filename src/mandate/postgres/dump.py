"""pg_dump and pg_restore: archives written, read through and restored, with progress."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, LiteralString

import psutil
from psycopg.conninfo import make_conninfo

from mandate.errors import DatabaseError, ProgramError
from mandate.postgres import programs
from mandate.postgres.connection import Row, Session, Target, connect
from mandate.progress import Reporter

Format = Literal["custom", "directory"]

_POLL_SECONDS = 0.25
_KEPT_LINES = 60
_TERMINATION_SECONDS = 10.0

# Read by pg_restore of every major and build; zstd and lz4 are options of the build and would tie the
# archive to the machine that wrote it. Level 1 is what one core keeps up with.
_COMPRESSION = ["--compress=1"]

_NO_SERVER = Target({})

# A client newer than 16 sets this on servers that do not know it; nothing else may be ignored.
_HARMLESS = re.compile(r'unrecognized configuration parameter "transaction_timeout"')
_ERROR = re.compile(r"^pg_restore: error: ")
_RESTORING = re.compile(
    r"^pg_restore: (?:launching item \d+|creating|processing) (?P<kind>[A-Z ]+) (?P<name>.+)$"
)
_DUMPING = re.compile(r'dumping contents of table "(?P<table>.+)"')


@dataclass(frozen=True)
class Client:
    """pg_dump and pg_restore of one installation, for a server."""

    pg_dump: Path
    pg_restore: Path
    major: int
    server_major: int

    @property
    def speaks_servers_language(self) -> bool:
        """From 17 on pg_restore sets a parameter that servers before 17 do not know."""
        return self.major <= 16 or self.server_major > 16


def client(server_major: int) -> Client:
    """The client programs for a server: its own major when there is one. Raises ProgramError."""
    pg_dump = programs.find("pg_dump", server_major)
    major = programs.major_version(pg_dump)
    pg_restore = pg_dump.with_name("pg_restore")
    if not os.access(pg_restore, os.X_OK):
        pg_restore = programs.find("pg_restore", major)
    return Client(pg_dump, pg_restore, major, server_major)


def dump(
    tool: Client,
    target: Target,
    path: Path,
    *,
    snapshot: str,
    tables: Mapping[str, int],
    format: Format,
    jobs: int,
    reporter: Reporter,
) -> None:
    """Write an archive of the whole database, as `snapshot` sees it, and sync it to disk.

    `tables` are the leaf tables as schema.table (unquoted) with their bytes, for the progress. What is
    at `path` after an error is worthless. Raises ProgramError.
    """
    argv: list[str | Path] = [tool.pg_dump, f"--format={format}", "--blobs", "--verbose", *_COMPRESSION]
    argv += [f"--snapshot={snapshot}", f"--file={path}"]
    if format == "directory":
        argv.append(f"--jobs={jobs}")
    else:
        path.touch(mode=0o600)  # it holds everybody's data; pg_dump makes its directories 0700
    with reporter.task("dump", total=sum(tables.values()), unit="bytes") as task:
        progress = _DumpProgress(target, tables)
        with closing(progress):
            _watch(argv, target, progress.line, lambda _: task.update(progress.done(), note=progress.note))
    sync(path)


class _DumpProgress:
    """Bytes of table dumped: tables begun, less what pg_stat_progress_copy says is still to come."""

    def __init__(self, target: Target, tables: Mapping[str, int]) -> None:
        self._tables = tables
        self._begun = 0
        self._session = _monitor(target)
        self.note = ""

    def line(self, line: str) -> None:
        if found := _DUMPING.search(line):
            self._begun += self._tables.get(found["table"], 0)
            self.note = _short(found["table"])

    def done(self) -> float:
        rows = _ask(
            self._session,
            "SELECT pg_catalog.format('%s.%s', n.nspname, c.relname) AS name,"
            " sum(p.bytes_processed)::bigint AS bytes"
            " FROM pg_catalog.pg_stat_progress_copy AS p"
            " JOIN pg_catalog.pg_class AS c ON c.oid = p.relid"
            " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE p.datname = current_database() AND p.command = 'COPY TO' GROUP BY 1",
        )
        ahead = sum(max(0, self._tables.get(row["name"], 0) - (row["bytes"] or 0)) for row in rows)
        return max(0, self._begun - ahead)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def entries(tool: Client, path: Path) -> int:
    """How many objects the archive's table of contents lists. Raises ProgramError when it has none."""
    listed = programs.run([tool.pg_restore, "--list", path], _NO_SERVER)
    found = sum(1 for line in listed.splitlines() if line and not line.startswith(";"))
    if found == 0:
        raise ProgramError(f"{path.name} is an empty archive", program="pg_restore")
    return found


def read_through(tool: Client, path: Path, reporter: Reporter) -> None:
    """Read and decompress every byte of the archive, as a restore would. Raises ProgramError."""
    total = size(path)
    with reporter.task("read the archive", total=total, unit="bytes") as task:
        _watch(
            [tool.pg_restore, f"--file={os.devnull}", path],
            _NO_SERVER,
            lambda _: None,
            lambda pid: task.update(min(total, _bytes_read(pid))),
        )


def restore(
    tool: Client,
    path: Path,
    target: Target,
    *,
    jobs: int,
    expected_bytes: int,
    reporter: Reporter,
) -> float:
    """Restore into the target, an empty database, and return the seconds it took.

    `expected_bytes` is the size that the database had, for the progress. Raises ProgramError when
    anything of the archive is not there afterwards.
    """
    argv: list[str | Path] = [tool.pg_restore, "--verbose", f"--jobs={jobs}"]
    argv += ["--exit-on-error"] if tool.speaks_servers_language else []
    argv += [f"--dbname={make_conninfo('', dbname=target.database)}", path]
    started = time.monotonic()
    with (
        closing(_RestoreProgress(target)) as progress,
        reporter.task("restore", total=expected_bytes, unit="bytes") as task,
    ):

        def tick(_: int) -> None:
            task.update(min(expected_bytes, progress.done()), note=progress.note)

        try:
            _watch(argv, _for_restore(target), progress.line, tick)
        except ProgramError as error:
            if error.fields["returncode"] != 1 or not progress.only_harmless_errors:
                raise
    return time.monotonic() - started


class _RestoreProgress:
    """How far the new database has grown, and the errors that pg_restore met."""

    def __init__(self, target: Target) -> None:
        self._session = _monitor(target)
        self._errors: list[str] = []
        self.note = ""

    def line(self, line: str) -> None:
        if _ERROR.match(line):
            self._errors.append(line)
        elif found := _RESTORING.match(line):
            self.note = f"{found['kind'].lower()} {_short(found['name'])}"

    @property
    def only_harmless_errors(self) -> bool:
        return bool(self._errors) and all(_HARMLESS.search(line) for line in self._errors)

    def done(self) -> float:
        rows = _ask(self._session, "SELECT pg_catalog.pg_database_size(current_database()) AS bytes")
        return float(rows[0]["bytes"]) if rows else 0.0

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def _short(name: str) -> str:
    """What of an object's name fits beside a progress bar: no schema, no table before it, 32 characters."""
    return name.strip('"').split(".")[-1].split(" ")[-1][:32]


def _for_restore(target: Target) -> Target:
    """Nothing waits for the disk at each commit: a restore that is cut off is done again anyway."""
    options = (
        f"{target.parameters.get('options', '')} -c synchronous_commit=off -c maintenance_work_mem=256MB"
    )
    return Target({**target.parameters, "options": options.strip()}, target.source)


def schema(tool: Client, target: Target, snapshot: str | None = None) -> frozenset[str]:
    """The definition of every object of a database: pg_dump's text, one entry per object.

    Without what differs from dump to dump. Deparsed expressions lose parentheses and casts: PostgreSQL
    writes some of them differently after a restore although they mean the same.
    """
    argv: list[str | Path] = [tool.pg_dump, "--schema-only"]
    argv += [f"--snapshot={snapshot}"] if snapshot else []
    text = programs.run(argv, target)
    blocks = re.split(r"^--\n-- (?=Name: )", text, flags=re.MULTILINE)[1:]
    return frozenset(_normalised(block) for block in blocks)


_VARYING = re.compile(r"^(\\(un)?restrict .*|-- PostgreSQL database dump complete|--|SET .*;)$", re.MULTILINE)
_CAST = re.compile(r"::(?:\"[^\"]+\"|[a-z_][\w.]*(?: varying| precision| with(?:out)? time zone)?)(?:\[\])*")


def _normalised(block: str) -> str:
    text = _CAST.sub("", _VARYING.sub("", block)).replace("(", " ").replace(")", " ")
    return re.sub(r" ?([\[\],;]) ?", r"\1", " ".join(text.split()))


def size(path: Path) -> int:
    """Bytes of an archive, file or directory."""
    return sum(file.stat().st_size for file in files(path))


def files(path: Path) -> list[Path]:
    """The files that an archive consists of, in a stable order."""
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def remove(path: Path) -> None:
    """Delete an archive if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until an archive, and the directory entry that names it, are on disk."""
    for place in [*files(path), *([path] if path.is_dir() else []), path.parent]:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _monitor(target: Target) -> Session | None:
    try:
        return connect(target, application_name="mandate-progress")
    except DatabaseError:
        return None  # no progress is shown; the program itself will say what is wrong


def _ask(session: Session | None, query: LiteralString) -> list[Row]:
    """An answer for the progress; nothing when there is none, which must not fail a backup."""
    if session is None:
        return []
    try:
        return session.rows(query)
    except DatabaseError:
        return []


def _bytes_read(pid: int) -> float:
    """What a process has read so far, where the system says."""
    try:
        return float(getattr(psutil.Process(pid).io_counters(), "read_chars", 0))
    except (psutil.Error, AttributeError):
        return 0.0


def _watch(
    argv: list[str | Path], target: Target, line: Callable[[str], None], tick: Callable[[int], None]
) -> None:
    """Run a program: `line` gets each line of its stderr, `tick` its pid several times a second.

    Raises ProgramError when it fails. Whatever ends the wait ends the program, too.
    """
    process = subprocess.Popen(
        [str(part) for part in argv],
        env=programs.environment(target, {"LC_ALL": "C"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    reader = threading.Thread(target=_read_lines, args=(process, said, line), daemon=True)
    reader.start()
    try:
        while _still_running(process):
            tick(process.pid)
    finally:
        _end(process)
        reader.join()
    if process.returncode != 0:
        raise programs.failure(argv, process.returncode, "\n".join(_complaints(said)))


def _read_lines(process: subprocess.Popen[str], said: deque[str], line: Callable[[str], None]) -> None:
    if process.stderr is not None:
        with process.stderr as lines:
            for text in lines:
                said.append(text.rstrip())
                line(text.rstrip())


def _still_running(process: subprocess.Popen[str]) -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_TERMINATION_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_CHATTER = re.compile(r"^pg_\w+: (?!error|fatal|warning|detail|hint)")


def _complaints(said: Iterable[str]) -> list[str]:
    return [line for line in said if not _CHATTER.match(line)] or list(said)
