"""The migrating step of 008 against a script that updates every row, on the same data in one run.

    python bench/migrate.py [--decisions 1000000] [--rounds 1]

Each round clones one seeded version 7 database twice, migrates one clone with `mandate run 008` (its
migrating step is what counts, its peak memory is noted) and the other with update_every_row.sql. Prints
the ratio and writes migrate.json and migrate.svg to bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from mandate.controlplane import seed
from mandate.postgres import embedded, programs
from mandate.postgres.connection import Target, connect, sql
from mandate.postgres.embedded_host import free_port
from mandate.progress import Silent
from mandate.runbook import migrations

HERE = Path(__file__).parent
TARGET_RATIO = 3.0


@dataclass(frozen=True)
class Round:
    """Seconds of both ways and the conductor's peak memory in bytes."""

    conductor_seconds: float
    update_seconds: float
    conductor_peak_bytes: int

    @property
    def ratio(self) -> float:
        """How many times as fast the migrating step is."""
        return self.update_seconds / self.conductor_seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mandate-bench-") as name:
        place = Path(name)
        place.chmod(0o755)
        server = embedded.start(place / "postgresql", port=free_port())
        try:
            rounds = measure(server, place, arguments.decisions, arguments.rounds)
        finally:
            embedded.stop(server.data_dir)
    report(arguments.decisions, rounds)


def measure(server: embedded.EmbeddedServer, place: Path, decisions: int, count: int) -> list[Round]:
    """Seed once, then measure on clones of it, in turn."""
    template = server.target("bench_template")
    migrations.init(template, to=7)
    say(f"seeding {decisions:,} decisions")
    seed.load(template, seed.Parameters(decisions=decisions), Silent())
    rounds = []
    for number in range(1, count + 1):
        say(f"round {number}: mandate run 008")
        conductor, peak = by_conductor(clone(template, f"bench_conductor_{number}"), place)
        say(f"round {number}: update_every_row.sql")
        update = by_update(clone(template, f"bench_update_{number}"))
        rounds.append(Round(conductor, update, peak))
        say(f"round {number}: {conductor:.1f} s against {update:.1f} s, {rounds[-1].ratio:.2f} times as fast")
    return rounds


def clone(template: Target, name: str) -> Target:
    """A copy of the seeded database, with nothing left of it to be written later."""
    with connect(template.with_database("postgres")) as session:
        session.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        session.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template.database)
            )
        )
        session.execute(
            sql.SQL("ALTER DATABASE {} SET search_path = mandate, public").format(sql.Identifier(name))
        )
        session.execute("CHECKPOINT")
    return template.with_database(name)


def by_conductor(target: Target, place: Path) -> tuple[float, int]:
    """Seconds of the migrating step, and the conductor's own peak memory."""
    argv = [sys.executable, "-m", "mandate", "run", "008", "--yes", "--no-rehearsal", "--format", "json"]
    process = subprocess.Popen(
        argv,
        cwd=place,
        env={**os.environ, **target.environment(), "DATABASE_URL": "", "MANDATE_CONFIG": str(config(place))},
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = Peak(process.pid)
    peak.start()
    output, _ = process.communicate()
    peak.join()
    run = json.loads(output)["run"]
    steps = {step["name"]: step for step in run["steps"]}
    if steps["migrate"]["status"] != "passed" or steps["verify"]["status"] != "passed":
        raise SystemExit(f"the run did not migrate (status {process.returncode}): {steps}")
    return float(steps["migrate"]["evidence"]["seconds"]), peak.bytes


class Peak(threading.Thread):
    """The most memory that a process itself ever had: the kernel's high-water mark, without children."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.bytes = 0

    def run(self) -> None:
        while found := re.search(r"VmHWM:\s+(\d+) kB", self._read()):
            self.bytes = int(found[1]) * 1024
            time.sleep(0.2)

    def _read(self) -> str:
        try:
            return self._status.read_text()
        except OSError:
            return ""


def config(place: Path) -> Path:
    """Settings without services: nothing is stopped, started or called."""
    path = place / "bench.toml"
    path.write_text("[services]\nkind = 'none'\n", "utf-8")
    return path


def by_update(target: Target) -> float:
    """Seconds that the script takes through psql."""
    with connect(target) as session:
        psql = programs.find("psql", session.server_version // 10000)
    started = time.monotonic()
    programs.run([psql, "-X"], target, stdin=HERE / "update_every_row.sql")
    return time.monotonic() - started


def report(decisions: int, rounds: list[Round]) -> None:
    """Print the ratio, write figures and plot."""
    ratio = statistics.median(r.ratio for r in rounds)
    peak = max(r.conductor_peak_bytes for r in rounds)
    print(f"decisions                 {decisions:>12,}")
    print(f"mandate run 008, migrate  {statistics.median(r.conductor_seconds for r in rounds):>10.1f} s")
    print(f"update every row          {statistics.median(r.update_seconds for r in rounds):>10.1f} s")
    verdict = "met" if ratio >= TARGET_RATIO else "MISSED"
    print(f"ratio                     {ratio:>10.2f}   (target {TARGET_RATIO:g}: {verdict})")
    print(f"conductor peak memory     {peak / 2**20:>8.0f} MiB   (target below 200)")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    figures = {
        "decisions": decisions,
        "ratio": ratio,
        "rounds": [{**vars(r), "ratio": r.ratio} for r in rounds],
    }
    (results / "migrate.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    (results / "migrate.svg").write_text(plot(rounds), "utf-8")


def plot(rounds: list[Round]) -> str:
    """Two bars: median seconds of each way."""
    bars = [
        (
            "mandate run 008, migrate",
            statistics.median(r.conductor_seconds for r in rounds),
            "#2f6f4f",
        ),
        ("update every row", statistics.median(r.update_seconds for r in rounds), "#8a8a8a"),
    ]
    longest = max(value for _, value, _ in bars)
    rows = "".join(
        f'<text x="0" y="{40 + 60 * place}">{label}</text>'
        f'<rect x="0" y="{48 + 60 * place}" width="{480 * value / longest:.0f}" height="20" fill="{colour}"/>'
        f'<text x="{480 * value / longest + 8:.0f}" y="{63 + 60 * place}">{value:.1f} s</text>'
        for place, (label, value, colour) in enumerate(bars)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 600 160"'
        f' font-family="sans-serif" font-size="14">{rows}</svg>\n'
    )


def say(text: str) -> None:
    """Progress on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
