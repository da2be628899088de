"""Limits of the throttle as options, and the state of a key change as `mandate rekey status` shows it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter

from mandate.cli import output, run_text
from mandate.cli.output import Format, amount, seconds, size
from mandate.errors import DatabaseUnavailable, UsageError
from mandate.postgres import lock
from mandate.postgres.connection import Session, Target, connect
from mandate.rekey import journal, load

MaxLag = Annotated[
    str | None,
    typer.Option("--max-lag", help="Replication may lag by so much, e.g. 10s or 256MB; 5s and 128MiB."),
]
MaxWalRate = Annotated[
    str | None, typer.Option("--max-wal-rate", help="WAL a second, all sessions', e.g. 50MB; no limit.")
]
MaxSessions = Annotated[
    int | None,
    typer.Option("--max-sessions", min=0, help="Active sessions of clients; no limit."),
]
MaxLatency = Annotated[
    float | None,
    typer.Option(
        "--max-latency",
        min=0.1,
        help="Milliseconds that a commit may take; half as long again as before the run.",
    ),
]
NoThrottle = Annotated[bool, typer.Option("--no-throttle", help="Work at full speed, whatever the load.")]

_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?s")
_SIZE = re.compile(r"\d{1,15}(\.\d{1,9})? ?([kMGT]?B|[KMGT]iB)?")
_BYTES = TypeAdapter(ByteSize)


def limits(
    max_lag: str | None,
    max_wal_rate: str | None,
    max_sessions: int | None,
    max_latency: float | None,
    no_throttle: bool,
) -> load.Limits | None:
    """What the options ask for; None: no throttle. Raises UsageError."""
    given = any(each is not None for each in (max_lag, max_wal_rate, max_sessions, max_latency))
    if no_throttle and given:
        raise UsageError("--no-throttle and a limit exclude each other", hint="leave one of them out")
    if no_throttle:
        return None
    usual = load.Limits()
    lag_seconds, lag_bytes = (usual.lag_seconds, usual.lag_bytes) if max_lag is None else _lag(max_lag)
    return load.Limits(
        lag_seconds=lag_seconds,
        lag_bytes=lag_bytes,
        wal_rate=None if max_wal_rate is None else _bytes("--max-wal-rate", max_wal_rate),
        sessions=max_sessions,
        latency=max_latency,
    )


def _lag(text: str) -> tuple[float | None, int | None]:
    found = _SECONDS.fullmatch(text.strip())
    return (float(found[1]), None) if found else (None, _bytes("--max-lag", text))


def _bytes(option: str, text: str) -> int:
    value = int(_BYTES.validate_python(text.strip())) if _SIZE.fullmatch(text.strip()) else 0
    if not 0 < value < 1 << 62:
        hint = "10s, 256MB" if option == "--max-lag" else "50MB"
        raise UsageError(f"{option} {text!r} is not an amount", hint=f"for example {hint}")
    return value


# -- status ----------------------------------------------------------------------------------------------


def show(target: Target, name: str, format: Format) -> int:
    """Say once where a change stands."""
    with connect(target, application_name="mandate-status") as session:
        data = state(session, name)
    output.emit(format, "rekey-status", data, lambda: "\n".join(lines(data)))
    return 0


def follow(target: Target, name: str, format: Format, interval: float) -> int:
    """Say it again whenever it changed, until nobody works on it any more."""
    shown, was_there = "", False
    while True:
        try:
            with connect(target, application_name="mandate-watch") as session:
                data = state(session, name)
        except DatabaseUnavailable as error:
            if not was_there:
                raise
            data = {"name": name, "unavailable": error.message, "alive": True}
        was_there = True
        text = "\n".join(lines(data))
        if text != shown:
            shown = text
            _say(format, data)
        if not data["alive"]:
            return 0
        time.sleep(interval)


def _say(format: Format, data: dict[str, Any]) -> None:
    output.emit(format, "rekey-status", data, lambda: "\n".join([*lines(data), ""]))
    output.flush()


def state(session: Session, name: str) -> dict[str, Any]:
    """A change, its phases, how far it is, and what it waits for."""
    change = journal.load(session, name)
    return {
        "name": name,
        "status": change.status if change else None,
        "waiting": journal.waiting(session, name) if change else None,
        "alive": lock.holder(session) is not None,
        "phases": [vars(phase) for phase in journal.phases(session, name)] if change else [],
        "progress": journal.progress(session, name) if change and change.status == "running" else None,
    }


def lines(data: dict[str, Any], again: str = "mandate rekey run SPEC") -> Iterator[str]:
    """A state for a person; `again` is the command that goes on with a change that nobody works on."""
    if "unavailable" in data:
        yield from run_text.wrapped(data["unavailable"], "waiting: ")
        return
    if data["status"] is None:
        yield f"There is no key change called {data['name']} in this database."
        return
    yield f"{data['name']}: {data['status']}"
    for phase in data["phases"]:
        took = phase["evidence"].get("seconds")
        over = seconds(took) if took is not None else "under way"
        yield f"  {phase['phase']:<13} {over}"
    if data["progress"] is not None:
        yield from _progress(data["progress"], data["alive"])
    if data["waiting"] and data["status"] == "running":
        yield from run_text.wrapped(data["waiting"], "waits:    ")
    if data["status"] == "running" and not data["alive"]:
        yield f"nobody works on it: `{again}` goes on"


def _progress(progress: dict[str, Any], alive: bool) -> Iterator[str]:
    stands = progress["share"] == 0
    left = f", {seconds(progress['eta_seconds'])} left{' once it goes on' if stands else ''}" if alive else ""
    yield f"done:     {progress['percent']:.0f} %{left}"
    if progress["total"] and alive:
        unit = progress["unit"]
        done, total = amount(progress["done"], unit), amount(progress["total"], unit)
        rate = f", {amount(progress['rate'], unit)}/s" if progress["rate"] else ""
        yield f"{progress['phase'] + ':':<10}{done} of {total}{rate}"
    if not alive:
        return
    if progress["limits"] is None:
        yield "throttle: none"
    else:
        reason = f": {progress['reason']}" if progress["reason"] else ""
        yield from run_text.wrapped(f"works {progress['share']:.0%} of the time{reason}", "throttle: ")
    yield from run_text.wrapped(", ".join(_signals(progress)), "server:   ")
    if progress["age_seconds"] > 5:
        yield f"          (as of {seconds(progress['age_seconds'])} ago)"


def _signals(progress: dict[str, Any]) -> Iterator[str]:
    signals = progress["signals"]
    unknown = signals["unreadable"]
    if progress["latency_limit"] is not None and "latency" not in unknown:
        limit = progress["latency_limit"]
        yield f"a commit takes {signals['latency']:.1f} ms (limit {limit:.1f})"
    if "replication lag" not in unknown:
        yield f"replication lag {signals['lag_seconds']:.1f} s, {size(signals['lag_bytes'])}"
    if "WAL rate" not in unknown:
        yield f"WAL {size(signals['wal_rate'])}/s"
    if "active sessions" not in unknown:
        yield f"{signals['sessions']} active sessions"
    for name, why in sorted(unknown.items()):
        yield f"{name} unknown ({why})"
