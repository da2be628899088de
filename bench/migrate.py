"""Migration 008 with services stopped, against pg_restore and against a script that updates every row.

    python -m bench.migrate [--decisions 1000000] [--rounds 1] [--jobs 2] [--tenth]

Each round clones one seeded version 7 database three times: the engine migrates one (all its phases count,
the verification too), pg_restore with as many jobs loads a dump of the same data into an empty database,
update_every_row.sql migrates the third. With --tenth a tenth of the data is migrated as well: how the time
grows. Prints the ratios and writes migrate.json and migrate.svg to bench/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import history
from bench.history import RESULTS, Peak, clone, drop, say, seeded
from mandate.postgres import programs
from mandate.postgres.connection import Target, connect

HERE = Path(__file__).parent
UPDATE_TARGET = 5.0
RESTORE_TARGET = 1.0
LINEAR_TARGET = 1.25

# A process of its own, so that its memory is the conductor's and nobody else's.
ENGINE = """
import json, sys, time
from mandate.postgres.connection import Target
from mandate.progress import Silent
from mandate.rekey.options import Options
from mandate.runbook import identity
options = Options(jobs=int(sys.argv[2]), swap=identity.OFFLINE_SWAP)
started = time.monotonic()
phases = identity.engine(Target.from_dsn(sys.argv[1]), Silent(), options).run()
print(json.dumps({"seconds": time.monotonic() - started, "phases": phases}))
"""


@dataclass(frozen=True)
class Engine:
    """Seconds of a migration by the engine, those of each phase, and the conductor's peak memory in bytes."""

    seconds: float
    phases: dict[str, float]
    peak_bytes: int


@dataclass(frozen=True)
class Round:
    """The same data three ways, in seconds."""

    engine: Engine
    restore_seconds: float
    update_seconds: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tenth", action="store_true")
    arguments = parser.parse_args()
    with seeded(arguments.decisions) as template:
        rounds = [measure(template, arguments.jobs, n) for n in range(1, arguments.rounds + 1)]
    tenth = None
    if arguments.tenth:
        with seeded(arguments.decisions // 10) as template:
            tenth = by_engine(clone(template, "bench_engine"), arguments.jobs)
    report(arguments.decisions, rounds, tenth)


def measure(template: Target, jobs: int, number: int) -> Round:
    """One round, each way on a fresh copy."""
    say(f"round {number}: engine")
    target = clone(template, "bench_engine")
    engine = by_engine(target, jobs)
    drop(target)
    say(f"round {number}: {engine.seconds:.1f} s; pg_restore -j{jobs}")
    restore = by_restore(template, jobs)
    say(f"round {number}: {restore:.1f} s; update_every_row.sql")
    target = clone(template, "bench_update")
    update = by_update(target)
    drop(target)
    say(f"round {number}: {update:.1f} s")
    return Round(engine, restore, update)


def by_engine(target: Target, jobs: int) -> Engine:
    """All phases of the engine, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE, target.conninfo, str(jobs)], stdout=subprocess.PIPE, text=True
    )
    peak = Peak(process.pid)
    peak.start()
    output, _ = process.communicate()
    peak.join()
    if process.returncode:
        raise SystemExit(f"the engine ended with {process.returncode}")
    found = json.loads(output)
    phases = {name: evidence["seconds"] for name, evidence in found["phases"].items()}
    return Engine(found["seconds"], phases, peak.bytes)


def by_restore(template: Target, jobs: int) -> float:
    """Seconds of pg_restore; the dump itself does not count."""
    target = template.with_database("bench_restore")
    with connect(template) as session:
        version = session.server_version // 10000
    with tempfile.TemporaryDirectory(prefix="mandate-bench-") as name:
        archive = Path(name) / "dump"
        # Not compressed: reading it must not be what takes the time.
        argv: list[str | Path] = [
            programs.find("pg_dump", version),
            "--format=directory",
            f"--jobs={jobs}",
            "--compress=0",
        ]
        programs.run([*argv, f"--file={archive}"], template)
        with connect(template.with_database("postgres")) as session:
            session.execute("DROP DATABASE IF EXISTS bench_restore")
            session.execute("CREATE DATABASE bench_restore")
            session.execute("CHECKPOINT")
        restore = [f"--jobs={jobs}", "--dbname=bench_restore", str(archive)]
        started = time.monotonic()
        programs.run([programs.find("pg_restore", version), *restore], target)
        seconds = time.monotonic() - started
    drop(target)
    return seconds


def by_update(target: Target) -> float:
    """Seconds that the script takes through psql."""
    with connect(target) as session:
        psql = programs.find("psql", session.server_version // 10000)
    started = time.monotonic()
    programs.run([psql, "-X"], target, stdin=HERE / "update_every_row.sql")
    return time.monotonic() - started


def report(decisions: int, rounds: Sequence[Round], tenth: Engine | None) -> None:
    """Print the ratios, write figures and plot."""
    engine = statistics.median(r.engine.seconds for r in rounds)
    verify = statistics.median(r.engine.phases["verify"] for r in rounds)
    restore = statistics.median(r.restore_seconds for r in rounds)
    update = statistics.median(r.update_seconds for r in rounds)
    peak = max(r.engine.peak_bytes for r in rounds)
    print(f"decisions                  {decisions:>12,}")
    print(f"engine, all phases         {engine:>10.1f} s   ({verify:.1f} s of it verification)")
    print(f"pg_restore                 {restore:>10.1f} s")
    print(f"update every row           {update:>10.1f} s")
    verdict("pg_restore / engine", restore / engine, RESTORE_TARGET)
    verdict("pg_restore / engine without verification", restore / (engine - verify), RESTORE_TARGET)
    verdict("update every row / engine", update / engine, UPDATE_TARGET)
    if tenth is not None:
        growth = engine / tenth.seconds / 10
        said = "met" if growth <= LINEAR_TARGET else "MISSED"
        print(f"time per row at 10 times the data: {growth:.2f} times   (target {LINEAR_TARGET:g}: {said})")
    print(f"conductor peak memory      {peak / 2**20:>8.0f} MiB   (target below 200)")
    RESULTS.mkdir(exist_ok=True)
    figures = {
        "decisions": decisions,
        "rounds": [{**vars(r), "engine": vars(r.engine)} for r in rounds],
        "tenth": tenth and vars(tenth),
    }
    (RESULTS / "migrate.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    plot = history.bars([("engine", engine), ("pg_restore", restore), ("update every row", update)])
    (RESULTS / "migrate.svg").write_text(plot, "utf-8")


def verdict(what: str, ratio: float, target: float) -> None:
    """One ratio against what is wanted of it."""
    print(f"{what:<42} {ratio:>6.2f}   (target {target:g}: {'met' if ratio >= target else 'MISSED'})")


if __name__ == "__main__":
    main()
