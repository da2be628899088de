"""Replay of a seeded history against reading the same rows with COPY alone, in one run.

    python bench/replay.py [--decisions 1000000] [--rounds 3] [--version 8]

Each round reads what a replay reads with one COPY that throws the rows away, then runs the self-check with
one process and with one per processor. "Unlike" decisions have a context of their own each, so that nothing
that was parsed or judged before helps. Prints decisions per second, per second of the replay's own
processor time, and the ratio; writes replay.json to bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mandate.controlplane import seed
from mandate.controlplane.dialect import DIALECTS
from mandate.controlplane.replay import Request, records, replay
from mandate.controlplane.replay.working import SETTINGS
from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect
from mandate.postgres.copying import copied_lines
from mandate.postgres.embedded_host import free_port
from mandate.progress import Silent
from mandate.runbook import migrations

HERE = Path(__file__).parent
TARGET_PER_CORE = 50_000


@dataclass(frozen=True)
class Round:
    """Seconds: COPY alone, a replay by one process (wall and its own processor time), and by all."""

    copy: float
    one: float
    one_processor: float
    all: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--version", type=int, choices=(7, 8), default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mandate-bench-") as name:
        place = Path(name)
        place.chmod(0o755)
        server = embedded.start(place / "postgresql", port=free_port())
        try:
            target = server.target("bench_replay")
            migrations.init(target, to=arguments.version)
            say(f"seeding {arguments.decisions:,} decisions")
            seed.load(target, seed.Parameters(decisions=arguments.decisions), Silent())
            found = {"seeded": measure(target, arguments)}
            make_unlike(target)
            found["unlike"] = measure(target, arguments)
        finally:
            embedded.stop(server.data_dir)
    report(arguments.decisions, found)


def measure(target: Target, arguments: argparse.Namespace) -> list[Round]:
    """Rounds, after one reading that warms the server's cache."""
    by_copy(target, arguments.version)
    rounds = []
    for number in range(1, arguments.rounds + 1):
        copy = by_copy(target, arguments.version)
        one, processor = by_replay(target, 1, arguments.decisions)
        everything, _ = by_replay(target, os.cpu_count() or 1, arguments.decisions)
        rounds.append(Round(copy, one, processor, everything))
        say(f"round {number}: {rounds[-1]}")
    return rounds


def by_copy(target: Target, version: int) -> float:
    """Seconds to read every row that a replay reads, at one go."""
    dialect = DIALECTS[version]
    selection = records.Selection("-infinity", "infinity", "infinity")
    everything = records.Chunk(records.BEFORE_ALL, records.AFTER_ALL)
    began = time.monotonic()
    with (
        connect(target, settings=SETTINGS) as session,
        records.lines(session, dialect, selection, everything) as lines,
    ):
        rows = sum(1 for _ in lines)
    say(f"COPY read {rows:,} rows")
    return time.monotonic() - began


def by_replay(target: Target, jobs: int, decisions: int) -> tuple[float, float]:
    """Seconds of a self-check, and of this process's own processor time."""
    began, before = time.monotonic(), time.process_time()
    with replay(target, Request(jobs=jobs)) as found:
        if found.totals.findings != {"same": decisions}:
            raise SystemExit(f"the self-check of the seeded history failed: {found.totals}")
    return time.monotonic() - began, time.process_time() - before


def make_unlike(target: Target) -> None:
    """Give every decision an undeclared key of its own: evidence that changes no verdict."""
    with connect(target, settings={"session_replication_role": "replica"}) as session:
        session.execute(
            """UPDATE mandate.decision_events SET context = context || jsonb_build_object('trace', decision_id)"""
        )
        session.execute("VACUUM ANALYZE mandate.decision_events")


def report(decisions: int, found: dict[str, list[Round]]) -> None:
    """Print figures and write them."""
    print(f"decisions                      {decisions:>12,}")
    for name, rounds in found.items():
        copy, one, processor, everything = (
            statistics.median(getattr(each, field) for each in rounds)
            for field in ("copy", "one", "one_processor", "all")
        )
        print(f"{name}")
        print(f"  COPY alone                   {decisions / copy:>12,.0f} decisions/s")
        print(f"  replay, one process          {decisions / one:>12,.0f} decisions/s")
        print(f"  ... of its processor time    {decisions / processor:>12,.0f} decisions/s")
        print(f"  replay, {os.cpu_count()} processes          {decisions / everything:>12,.0f} decisions/s")
        print(f"  one process / COPY           {copy / one:>12.2f}")
        verdict = "met" if decisions / one >= TARGET_PER_CORE else "MISSED"
        print(f"  target per core              {TARGET_PER_CORE:>12,} decisions/s: {verdict}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory, seeding included  {peak:>8.0f} MiB")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    figures = {"decisions": decisions, **{name: [asdict(r) for r in rounds] for name, rounds in found.items()}}
    (results / "replay.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def say(text: str) -> None:
    """Progress on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
