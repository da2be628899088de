"""POST /api/decisions against pgbench writing the same rows with a commit each, in one run.

    python -m bench.api [--seconds 10] [--version 8] [--batch 20000]
    python -m bench.api --soak 1000000

One server, one database; at 1, 8 and 32 clients first pgbench, then the service. Prints decisions per second,
latencies and the ratio, the processor time per decision (which a busy machine distorts less) of the service,
of PostgreSQL and of the clients, how many were written together, the rate of the batch endpoint, pages of the
list by their depth, and the service's memory before and after. Writes api.json to bench/results/.

With --soak so many decisions are posted by 32 clients instead, and the service's memory is read after every
tenth of them: it may not grow from the second to the last.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.api_clients import decision
from bench.history import RESULTS, say
from mandate.postgres import embedded, programs
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded_host import free_port
from mandate.runbook import migrations

HERE = Path(__file__).parent
CLIENTS = (1, 8, 32)
PAGE = 500
IN_STATEMENT = 500
RATIO_TARGET = 0.8
RATE_TARGET = 3_500
P99_TARGET_MS = 25
BATCH_TARGET = 20_000
SOAK_GROWTH_MB = 5.0  # what the allocator and the interpreter may still do


@dataclass(frozen=True)
class Rate:
    """What so many clients got done; processor microseconds are per decision."""

    clients: int
    pgbench_per_second: float
    per_second: float
    p50_ms: float
    p99_ms: float
    service_us: float
    postgresql_us: float
    clients_us: float
    group: float
    pgbench_postgresql_us: float

    @property
    def ratio(self) -> float:
        return self.per_second / self.pgbench_per_second


class Bench:
    """A served database, and the processes whose time is taken."""

    def __init__(self, target: Target, service: psutil.Process, port: int, postmaster: int) -> None:
        self.target, self.service, self.port = target, service, port
        self._postmaster = psutil.Process(postmaster)

    def rate(self, clients: int, seconds: float) -> Rate:
        """pgbench, then the service."""
        pgbench, pgbench_us = self._pgbench(clients, seconds)
        before, pg_before, groups = _busy(self.service), self._postgresql(), self._groups()
        found = self.post(clients, seconds)
        written, statements = (now - then for now, then in zip(self._groups(), groups, strict=True))
        each = 1e6 / found["decisions"]
        return Rate(
            clients,
            pgbench,
            found["decisions"] / found["seconds"],
            found["p50_ms"],
            found["p99_ms"],
            (_busy(self.service) - before) * each,
            (self._postgresql() - pg_before) * each,
            found["client_us"],
            written / statements,
            pgbench_us,
        )

    def post(self, clients: int, seconds: float, most: int | None = None) -> dict[str, float]:
        """What bench.api_clients found, for so many seconds or decisions."""
        url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "bench.api_clients", url, str(clients), str(seconds)]
        command += [] if most is None else [str(most)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def _groups(self) -> tuple[float, float]:
        """Decisions that were written, and statements that wrote them."""
        text = self._ask("GET", "/metrics").decode()
        found = dict(re.findall(r"^mandate_group_decisions_(sum|count) (\S+)$", text, re.MULTILINE))
        return float(found["sum"]), float(found["count"])

    def _pgbench(self, clients: int, seconds: float, decisions: int = 1) -> tuple[float, float]:
        """Decisions per second, so many in a statement, and processor microseconds of PostgreSQL for each."""
        before = self._postgresql()
        script = str(HERE / "write_decision.sql")
        command = [str(_pgbench_program()), "-n", "-M", "prepared", "-f", script, "-c", str(clients)]
        command += [
            "-j",
            str(min(clients, 2)),
            "-T",
            str(max(1, round(seconds))),
            "-D",
            f"decisions={decisions}",
        ]
        environment = {**self.target.environment(), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        count = re.search(r"transactions actually processed: (\d+)", done.stdout)
        rate = re.search(r"tps = ([\d.]+)", done.stdout)
        assert count
        assert rate
        time.sleep(0.5)  # its backends end, and what they took is added to the postmaster's account
        each = 1e6 / (int(count[1]) * decisions)
        return float(rate[1]) * decisions, (self._postgresql() - before) * each

    def without_service(self, seconds: float) -> tuple[float, float]:
        """The same for the batch endpoint: what both processors write when nobody judges or answers."""
        return self._pgbench(2, seconds, decisions=IN_STATEMENT)

    def batch(self, decisions: int) -> tuple[float, float, float]:
        """Decisions per second of the batch endpoint; processor microseconds of service and PostgreSQL."""
        body = b"\n".join(json.dumps(decision()).encode() for _ in range(decisions))
        before, pg_before, began = _busy(self.service), self._postgresql(), time.perf_counter()
        answer = self._ask("POST", "/api/decisions:batch", body)
        seconds = time.perf_counter() - began
        assert answer.count(b'"status": 201') == decisions
        each = 1e6 / decisions
        return (
            decisions / seconds,
            (_busy(self.service) - before) * each,
            (self._postgresql() - pg_before) * each,
        )

    def pages(self) -> tuple[int, list[float]]:
        """How many pages the list has, and the median milliseconds of a page in each fifth of it."""
        with connect(self.target) as session:
            session.execute(b"ANALYZE")  # as autovacuum does within a minute; nothing is known of new tables
        taken: list[float] = []
        cursor = ""
        while True:
            began = time.perf_counter()
            answer = json.loads(self._ask("GET", f"/api/decisions?limit={PAGE}{cursor}"))
            taken.append((time.perf_counter() - began) * 1000)
            if answer["next_cursor"] is None:
                size = max(1, len(taken) // 5)
                return len(taken), [statistics.median(taken[at * size : (at + 1) * size]) for at in range(5)]
            cursor = f"&cursor={answer['next_cursor']}"

    def memory_mb(self) -> float:
        return float(self.service.memory_info().rss) / 1e6

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request(method, path, body, {"Content-Type": "application/x-ndjson"} if body else {})
        response = connection.getresponse()
        found = response.read()
        assert response.status == 200, found[:500]
        connection.close()
        return found

    def _postgresql(self) -> float:
        """Processor seconds of all of PostgreSQL, of processes that have ended too."""
        times = self._postmaster.cpu_times()
        ended = times.children_user + times.children_system
        running = [self._postmaster, *self._postmaster.children(recursive=True)]
        return float(ended) + sum(map(_busy, running))


def _busy(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _pgbench_program() -> Path:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    return programs.embedded_bin(18) / "pgbench" if not debian else debian[-1]


@contextmanager
def served(version: int) -> Iterator[Bench]:
    """A service on a database of its own with the sample specs, durable as it comes."""
    with tempfile.TemporaryDirectory(prefix="mandate-bench-") as name:
        place = Path(name)
        place.chmod(0o755)
        server = embedded.start(place / "postgresql", port=free_port())
        try:
            target = server.target("bench")
            migrations.init(target, to=version)
            postmaster = int((server.data_dir / "cluster" / "postmaster.pid").read_text().split()[0])
            program = str(Path(sys.executable).parent / "mandate")
            command = [program, "serve", "--port", "0", "--dsn", target.conninfo]
            command += ["--log-dir", str(place / "log"), "--format", "json"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                try:
                    assert process.stdout is not None
                    port = json.loads(process.stdout.readline())["port"]
                    yield Bench(target, psutil.Process(process.pid), port, postmaster)
                finally:
                    process.terminate()
        finally:
            embedded.stop(server.data_dir)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--version", type=int, default=8, help="of the schema")
    parser.add_argument("--batch", type=int, default=20_000)
    parser.add_argument("--soak", type=int, metavar="DECISIONS", help="look at memory only")
    arguments = parser.parse_args()
    if arguments.soak:
        sys.exit(soak(arguments.version, arguments.soak))
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """The service beside pgbench, the batch endpoint, and the list."""
    with served(arguments.version) as bench:
        bench.rate(8, min(2, arguments.seconds))  # what is compiled and planned once
        memory = bench.memory_mb()
        rates = [_said(bench.rate(clients, arguments.seconds)) for clients in CLIENTS]
        alone = bench.without_service(arguments.seconds)
        batch = bench.batch(arguments.batch)
        pages = bench.pages()
        after = bench.memory_mb()
    print(f"batch       {batch[0]:>8,.0f}/s of {BATCH_TARGET:,} wanted; processor time a decision:")
    print(f"            {batch[1]:.0f} us of the service, {batch[2]:.0f} us of PostgreSQL")
    print(f"  pgbench {alone[0]:>10,.0f}/s with {IN_STATEMENT} in a statement, 2 at a time, and no service:")
    print(f"            {alone[1]:.0f} us of PostgreSQL")
    by_depth = ", ".join(f"{each:.1f}" for each in pages[1])
    print(f"list        {pages[0]} pages of {PAGE}; ms a page in each fifth, newest first: {by_depth}")
    print(f"memory      {memory:.0f} MB before, {after:.0f} MB after")
    RESULTS.mkdir(exist_ok=True)
    figures = {
        "rates": [{**asdict(rate), "ratio": rate.ratio} for rate in rates],
        "batch": dict(zip(("per_second", "service_us", "postgresql_us"), batch, strict=True)),
        "batch_without_service": dict(zip(("per_second", "postgresql_us"), alone, strict=True)),
        "pages": {"count": pages[0], "ms_by_fifth": pages[1]},
        "memory_mb": [memory, after],
    }
    (RESULTS / "api.json").write_text(json.dumps(figures, indent=2) + "\n")


def soak(version: int, decisions: int) -> int:
    """Post so many decisions; 1 if the service's memory grew from the second tenth to the last."""
    found: list[float] = []
    with served(version) as bench:
        for tenth in range(1, 11):
            rate = bench.post(32, 86_400, decisions // 10)
            found.append(bench.memory_mb())
            print(
                f"{tenth * decisions // 10:>9,} decisions  {found[-1]:6.1f} MB"
                f"   {rate['decisions'] / rate['seconds']:,.0f}/s",
                flush=True,
            )
    growth = found[-1] - found[1]
    print(f"grown by {growth:.1f} MB from the second tenth to the last ({SOAK_GROWTH_MB:.0f} may be)")
    return int(growth > SOAK_GROWTH_MB)


def _said(rate: Rate) -> Rate:
    print(
        f"{rate.clients:>2} clients  {rate.per_second:>8,.0f}/s ({RATE_TARGET:,} wanted at 8 and 32)"
        f"   p50 {rate.p50_ms:.2f} ms   p99 {rate.p99_ms:.2f} ms ({P99_TARGET_MS} wanted)\n"
        f"  pgbench   {rate.pgbench_per_second:>8,.0f}/s   ratio {rate.ratio:.2f} ({RATIO_TARGET} wanted)\n"
        f"  processor {rate.service_us:.0f} us of the service, {rate.postgresql_us:.0f} us of PostgreSQL and"
        f" {rate.clients_us:.0f} us of the clients a decision,\n"
        f"            {rate.group:.1f} written together; PostgreSQL for pgbench:"
        f" {rate.pgbench_postgresql_us:.0f} us",
        flush=True,
    )
    return rate


if __name__ == "__main__":
    say("a server, a service, and clients of both")
    main()
