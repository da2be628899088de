"""Runs the migration file through psql, as the guide prints it, and watches it from a second session."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mandate.errors import DatabaseError, DiskFull, LockNotAvailable, MandateError, MigrationFailed
from mandate.postgres import programs
from mandate.postgres.connection import Session, Target, connect, redact
from mandate.progress import Reporter

_TAG = re.compile(
    r"^(?:BEGIN|COMMIT|SET|DO|LOCK TABLE|ANALYZE|SELECT \d+|INSERT \d+ \d+|(?:UPDATE|DELETE) \d+"
    r"|(?:CREATE|ALTER|DROP|COMMENT|GRANT|REVOKE|TRUNCATE)(?: [A-Z]+)*)(?: \(.*\))?$"
)
_ERROR = re.compile(r"(?:ERROR|FATAL|PANIC):\s+(.*)")
_SAMPLE_SECONDS = 0.25
_GONE_SECONDS = 60.0


@dataclass(frozen=True)
class Request:
    """What to run where. `expected` are seconds per statement from a rehearsal, if there was one."""

    target: Target
    migration: str
    file: Path
    transcript: Path
    application_name: str
    lock_timeout_seconds: float
    expected: Sequence[float] = ()


@dataclass
class _Watch:
    tags: list[tuple[str, float]] = field(default_factory=list)
    locks: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    last_lines: list[str] = field(default_factory=list)


def run(request: Request, reporter: Reporter) -> dict[str, Any]:
    """Run the file to its end; evidence {method, seconds, transcript, statements, locks}.

    Raises MigrationFailed when psql did not exit with 0. Whatever ends it - psql killed, Ctrl-C, a lost
    connection - no session of it is left behind in the server when this returns.
    """
    name = f"{request.application_name}-psql"[:63]
    watch = _Watch()
    started = time.monotonic()
    with connect(request.target, application_name=request.application_name) as monitor:
        major = monitor.server_version // 10000
        psql = programs.find("psql", major)
        with _process(psql, request, name, _limits(request, major)) as process, _ended(request.target, name):
            returncode = _follow(process, request, monitor, name, watch, reporter)
    if returncode != 0:
        raise _failed(returncode, watch, request)
    return _evidence(request, watch, time.monotonic() - started)


def wait_until_gone(session: Session, application_name: str, *, terminate: bool) -> bool:
    """Wait until no psql of that run is connected; end it when told. True when one was there."""
    name = f"{application_name}-psql"[:63]
    found = False
    deadline = time.monotonic() + _GONE_SECONDS
    while pids := session.rows(
        "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()",
        (name,),
    ):
        found = True
        if terminate:
            session.execute("SELECT pg_terminate_backend(%s)", (pids[0]["pid"],))
        if time.monotonic() > deadline:
            raise MigrationFailed(
                f"server process {pids[0]['pid']} still runs the migration",
                hint=f"wait for it, or end it: SELECT pg_terminate_backend({pids[0]['pid']})",
            )
        time.sleep(0.05)
    return found


def _limits(request: Request, major: int) -> dict[str, str]:
    """Wait for a lock so long; nothing else, whatever role and database are set to, cuts it short."""
    limits = {
        "lock_timeout": f"{int(request.lock_timeout_seconds * 1000)}",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
    }
    return limits | ({"transaction_timeout": "0"} if major >= 17 else {})


@contextmanager
def _process(
    psql: Path, request: Request, name: str, limits: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    own = request.target.parameters.get("options") or os.environ.get("PGOPTIONS", "")
    options = " ".join([own, *(f"-c {key}={value}" for key, value in limits.items())])
    environment = programs.environment(request.target, {"PGAPPNAME": name, "PGOPTIONS": options})
    with request.file.open("rb") as stdin:
        process = subprocess.Popen(
            [str(psql), "--no-psqlrc"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def _ended(target: Target, name: str) -> Iterator[None]:
    """On the way out, make sure that the server no longer works for our psql."""
    try:
        yield
    finally:
        try:
            with connect(target, application_name=name.removesuffix("-psql")) as session:
                wait_until_gone(session, name.removesuffix("-psql"), terminate=True)
        except DatabaseError:
            # The server itself is gone, and every session with it: the transaction never committed or
            # did, and the schema version says which when it is back.
            pass


def _follow(
    process: subprocess.Popen[str],
    request: Request,
    monitor: Session,
    name: str,
    watch: _Watch,
    reporter: Reporter,
) -> int:
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    started = time.monotonic()
    expected = request.expected
    with (
        request.transcript.open("w", encoding="utf-8") as transcript,
        reporter.task(
            "migrate", total=100 if expected else None, unit="%" if expected else "commands"
        ) as task,
    ):
        for line in _lines(lines):
            now = time.monotonic() - started
            note = None
            if line:
                _take(line, now, watch)
                transcript.write(redact(line))
                transcript.flush()
            else:
                note = _sample(monitor, name, watch, now)
            task.update(_done(watch, now, expected), note=note)
    return process.wait()


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _lines(lines: queue.SimpleQueue[str | None]) -> Iterator[str]:
    """Lines as they come; an empty string whenever none came for a moment."""
    while True:
        try:
            line = lines.get(timeout=_SAMPLE_SECONDS)
        except queue.Empty:
            yield ""
            continue
        if line is None:
            return
        yield line


def _take(line: str, now: float, watch: _Watch) -> None:
    text = line.rstrip("\n")
    watch.last_lines = [*watch.last_lines[-9:], text]
    if _TAG.match(text):
        watch.tags.append((text, now))


def _sample(monitor: Session, name: str, watch: _Watch, now: float) -> str | None:
    """What the migration's session holds, and whom it waits for. Losing sight of it is not its failure."""
    try:
        rows = monitor.rows(_LOCKS, (name,))
        blocked = monitor.row(_BLOCKED, (name,))
    except DatabaseError:
        return None
    for row in rows:
        watch.locks.setdefault((row["table"], row["mode"]), [now, now])[1] = now
    if blocked is None:
        return ""
    return f"waits for process {blocked['pid']} ({blocked['application'] or blocked['user']})"


_LOCKS = """
SELECT n.nspname || '.' || c.relname AS "table", l.mode
FROM pg_locks l
JOIN pg_stat_activity a USING (pid)
JOIN pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
WHERE a.application_name = %s AND l.granted
"""

_BLOCKED = """
SELECT b.pid, b.application_name AS application, b.usename AS "user"
FROM pg_stat_activity a
CROSS JOIN LATERAL unnest(pg_blocking_pids(a.pid)) AS blocker(pid)
JOIN pg_stat_activity b ON b.pid = blocker.pid
WHERE a.application_name = %s
LIMIT 1
"""


def _done(watch: _Watch, now: float, expected: Sequence[float]) -> float:
    """Percent of the rehearsed time that is behind us; without a rehearsal the number of commands done."""
    done = len(watch.tags)
    if not expected:
        return done
    since = now - (watch.tags[-1][1] if watch.tags else 0.0)
    current = expected[done] if done < len(expected) else 0.0
    return min(100.0, 100.0 * (sum(expected[:done]) + min(since, current)) / (sum(expected) or 1.0))


def _failed(returncode: int, watch: _Watch, request: Request) -> MandateError:
    said = next((m[1] for line in watch.last_lines if (m := _ERROR.search(line))), None)
    how = f"psql was killed by signal {-returncode}" if returncode < 0 else f"psql exited with {returncode}"
    message = f"{how}: {said or ' / '.join(watch.last_lines[-2:]) or 'it said nothing'}"
    error = MigrationFailed(
        message,
        hint=_hint(said or "", request.migration),
        transcript=request.transcript.name,
    )
    if said and "lock timeout" in said:
        error.__cause__ = LockNotAvailable(
            f"somebody holds a lock for more than {request.lock_timeout_seconds:g} s"
        )
    elif said and "No space left" in said:
        error.__cause__ = DiskFull(said)
    return error


def _hint(said: str, migration: str) -> str:
    if "lock timeout" in said:
        return "end the session that holds the lock, or raise --lock-timeout, and run again"
    if "No space left" in said:
        return "free disk space on the server, then run again: nothing was changed"
    return (
        f"`mandate diagnose {migration}` names the data behind it; nothing was changed, run again when fixed"
    )


def _evidence(request: Request, watch: _Watch, seconds: float) -> dict[str, Any]:
    ends = [at for _, at in watch.tags]
    durations = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    return {
        "method": "plain-sql",
        "seconds": round(seconds, 3),
        "transcript": request.transcript.name,
        "statements": [
            {"tag": tag, "seconds": round(duration, 3)}
            for (tag, _), duration in zip(watch.tags, durations, strict=True)
        ],
        "locks": [
            {"table": table, "mode": mode, "seconds": round(last - first, 1)}
            for (table, mode), (first, last) in sorted(watch.locks.items())
        ],
    }
