"""Replay of a seeded history against reading the same rows with COPY alone, in one run.

    python bench/replay.py [--decisions 1000000] [--rounds 3] [--version 8]

Each round reads what a replay reads with one COPY that throws the rows away, then runs the self-check with
one process and with one per processor. "Unlike" decisions have a context of their own each, so that nothing
that was parsed or judged before helps; "texts" are the same, and one in ten came with a text. Prints
decisions per second and per second of processor time (which a busy machine distorts less): the replay's own,
and PostgreSQL's with it. Writes replay.json to bench/results/.
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
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from mandate.controlplane import seed
from mandate.controlplane.dialect import DIALECTS, SCHEMA_VERSION
from mandate.controlplane.replay import Request, records, replay
from mandate.controlplane.replay.working import SETTINGS
from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.postgres.embedded_host import free_port
from mandate.progress import Silent
from mandate.runbook import migrations, tenant_keys

HERE = Path(__file__).parent
TARGET_PER_CORE = 50_000


@dataclass(frozen=True)
class Round:
    """Seconds: COPY alone and PostgreSQL's part of it; a replay by one process, its own processor time and
    PostgreSQL's; a replay by as many processes as there are processors."""

    copy: float
    copy_server: float
    one: float
    one_own: float
    one_server: float
    all: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--version", type=int, choices=(7, 8, 9), default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mandate-bench-") as name:
        place = Path(name)
        place.chmod(0o755)
        server = embedded.start(place / "postgresql", port=free_port())
        try:
            target = server.target("bench_replay")
            migrations.init(target, to=min(arguments.version, 8))
            say(f"seeding {arguments.decisions:,} decisions")
            began = time.monotonic()
            seed.load(target, seed.Parameters(decisions=arguments.decisions), Silent())
            say(f"seeded in {time.monotonic() - began:.0f} s")
            if arguments.version == 9:
                engine = tenant_keys.engine(target, Silent())
                engine.run()
                engine.finalize()
            found = {"seeded": measure(server, target, arguments)}
            make_unlike(target)
            found["unlike"] = measure(server, target, arguments)
            give_texts(target)
            found["texts"] = measure(server, target, arguments)
        finally:
            embedded.stop(server.data_dir)
    report(arguments.decisions, found)


def measure(server: EmbeddedServer, target: Target, arguments: argparse.Namespace) -> list[Round]:
    """Rounds, after one reading that warms the server's cache."""
    by_copy(target)
    rounds = []
    for number in range(1, arguments.rounds + 1):
        at = [server_seconds(server)]
        copy = by_copy(target)
        at.append(server_seconds(server))
        one, own = by_replay(target, 1, arguments.decisions)
        at.append(server_seconds(server))
        everything, _ = by_replay(target, os.cpu_count() or 1, arguments.decisions)
        rounds.append(Round(copy, at[1] - at[0], one, own, at[2] - at[1], everything))
        say(f"round {number}: {rounds[-1]}")
    return rounds


def server_seconds(server: EmbeddedServer) -> float:
    """Processor time of PostgreSQL so far: its processes that run and those that have ended."""
    parent = psutil.Process(server.pid)
    times = parent.cpu_times()
    ended = times.user + times.system + times.children_user + times.children_system
    running = [child.cpu_times() for child in parent.children()]
    return float(ended + sum(each.user + each.system for each in running))


def by_copy(target: Target) -> float:
    """Seconds to read every row that a replay reads, at one go."""
    selection = records.Selection("-infinity", "infinity", "infinity")
    everything = records.Chunk(records.BEFORE_ALL, records.AFTER_ALL)
    began = time.monotonic()
    with connect(target, settings=SETTINGS) as session:
        dialect = DIALECTS[session.value(SCHEMA_VERSION)]
        texts = records.has_texts(session, dialect)
        with records.lines(session, dialect, selection, everything, texts=texts) as lines:
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
            "UPDATE mandate.decision_events SET context = context || jsonb_build_object('trace', decision_id)"
        )
        session.execute("VACUUM ANALYZE mandate.decision_events")


def give_texts(target: Target) -> None:
    """Let one decision in ten have come with a text, which says nothing about what was left out."""
    with connect(target, settings={"session_replication_role": "replica"}) as session:
        session.execute(
            "UPDATE mandate.audit_timeline_entries SET details = details || jsonb_build_object("
            "'unstructured_context', 'Nobody knows what this is about: ' || repeat(entry_id || ' ', 10))"
            " WHERE details ->> 'type' = 'DECISION_RECORDED' AND hashtext(decision_id::text) % 10 = 0"
        )
        session.execute("VACUUM ANALYZE mandate.audit_timeline_entries")


def report(decisions: int, found: dict[str, list[Round]]) -> None:
    """Print figures and write them."""
    print(f"decisions                      {decisions:>12,}")
    for name, rounds in found.items():
        median = {
            field.name: statistics.median(getattr(each, field.name) for each in rounds)
            for field in fields(Round)
        }
        processor = median["one_own"] + median["one_server"]
        print(f"{name}")
        show("COPY alone", decisions / median["copy"])
        show("replay, one process", decisions / median["one"])
        show(f"replay, {os.cpu_count()} processes", decisions / median["all"])
        show("per second of its own processor time", decisions / median["one_own"])
        show("per second of processor time, PostgreSQL's with it", decisions / processor)
        print(f"  one process / COPY alone {median['copy'] / median['one']:>36.2f}")
        verdict = "met" if decisions / median["one_own"] >= TARGET_PER_CORE else "MISSED"
        print(f"  target {TARGET_PER_CORE:,} decisions/s per core of its own: {verdict}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory, seeding included  {peak:>8.0f} MiB")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    figures: dict[str, object] = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    figures["decisions"] = decisions
    (results / "replay.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def show(what: str, rate: float) -> None:
    """One line of the report."""
    print(f"  {what:<50} {rate:>10,.0f} decisions/s")


def say(text: str) -> None:
    """Progress on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
