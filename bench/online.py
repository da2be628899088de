"""Writers at a fixed rate while migration 008 runs under them: what it costs them.

    python -m bench.online [--decisions 1000000] [--rate 100] [--writers 4] [--quiet-seconds 20]

A seeded version 7 database; writers insert a decision with its verdict and two timeline entries, each at its
appointed time whether the one before it took long or not (latency counts from that time). First nothing else
happens, then one session of the server counts to itself and touches no table (what any busy processor costs
here), then the engine runs online with its default throttle, swaps, stays in its reverse window, and rolls
back. A write that fails because the schema changed under it is written once more for the other version, as
the service does; any other failure is one. At the end every write is looked for in the database. Prints p50,
p99 and the longest by phase; writes online.json and online.svg to bench/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from bench.history import RESULTS, clone, say, seeded
from bench.writers import Crew, Write
from mandate.errors import DatabaseError
from mandate.postgres.connection import Target, connect

BLOCKED_TARGET_MS = 50.0
P99_TARGET = 1.5
COUNT = "one session that counts"
_STRETCHES = (
    ("before", None),
    ("counting", COUNT),
    ("forward", "run"),
    ("window", None),
    ("back", "rollback"),
    ("after", None),
)
_CANCELED = "57014"
_BUSY = ("copy", "build", "catch up", "foreign keys", "verify")

# A process of its own: what it computes is not taken from the writers' interpreter.
ENGINE = """
import json, sys
from mandate.postgres.connection import Target
from mandate.progress import Silent
from mandate.rekey.options import Options
from mandate.rekey.load import Limits
from mandate.runbook import identity
made = identity.engine(Target.from_dsn(sys.argv[1]), Silent(), Options(jobs=1, limits=Limits()))
found = made.run() if sys.argv[2] == "run" else {"rollback": made.rollback()}
print(json.dumps(found, default=str))
"""


@dataclass(frozen=True)
class Span:
    """A stretch of the run, in seconds of the clock that writes are timed by."""

    name: str
    begins: float
    ends: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=100.0, help="transactions a second, of all writers")
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--quiet-seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    with seeded(arguments.decisions) as template:
        target = clone(template, "bench_online")
        with Crew(target, arguments.writers, arguments.rate) as crew:
            spans, swaps = migrate(target, arguments.quiet_seconds)
        lost = missing(target, [write.key for write in crew.writes if write.failure is None])
    report(arguments, crew.writes, spans, swaps, lost)


def migrate(target: Target, quiet: float) -> tuple[list[Span], dict[str, float]]:
    """Everything that happens to the writers; the spans, and how long each swap kept them waiting (ms)."""
    spans: list[Span] = []
    swaps: dict[str, float] = {}
    for name, what in _STRETCHES:
        spans.append(quiet_or(target, name, what, quiet, spans, swaps))
    return spans, swaps


def quiet_or(
    target: Target, name: str, what: str | None, quiet: float, spans: list[Span], swaps: dict[str, float]
) -> Span:
    """One stretch: the engine's work, its phases as spans of their own, or nothing but the writers."""
    say(f"{name}: {what or f'writers alone for {quiet:g} s'}")
    begun = time.time()
    if what is None:
        time.sleep(quiet)
        return Span(name, begun, time.time())
    if what == COUNT:
        count(target, quiet)
        return Span(name, begun, time.time())
    argv = [sys.executable, "-c", ENGINE, target.conninfo, what]
    found = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    swap = found["cutover"] if what == "run" else found["rollback"]
    swaps[name] = float(swap["blocked_milliseconds"])
    if what == "run":
        spans += phases(target)
    return Span(name, begun, time.time())


def count(target: Target, seconds: float) -> None:
    """Keep one session of the server at work that touches nothing."""
    with connect(target) as session:
        session.execute("SELECT set_config('statement_timeout', %s, false)", (f"{round(seconds * 1000)}ms",))
        try:
            session.execute("DO 'DECLARE i bigint := 0; BEGIN LOOP i := i + 1; END LOOP; END'")
        except DatabaseError as error:
            if error.sqlstate != _CANCELED:
                raise


def phases(target: Target) -> Iterator[Span]:
    """The engine's phases, as its journal has them."""
    with connect(target) as session:
        rows = session.rows(
            "SELECT phase, extract(epoch FROM started_at)::float8 AS begins,"
            " extract(epoch FROM finished_at)::float8 AS ends FROM mandate_conductor.rekey_phases"
            " WHERE finished_at IS NOT NULL ORDER BY started_at"
        )
    return (Span(row["phase"], row["begins"], row["ends"]) for row in rows)


def missing(target: Target, keys: Sequence[UUID]) -> int:
    """Decisions that were acknowledged and are not in the database with all that was written with them."""
    with connect(target) as session:
        found: int = session.value(
            "SELECT count(*) FROM mandate.decision_events d JOIN mandate.verdict_events v USING (decision_id)"
            " WHERE d.decision_id = ANY (%s) AND (SELECT count(*) FROM mandate.audit_timeline_entries e"
            " WHERE e.decision_id = d.decision_id) = 2",
            (list(keys),),
        )
    return len(keys) - found


def report(
    arguments: argparse.Namespace,
    writes: Sequence[Write],
    spans: Sequence[Span],
    swaps: dict[str, float],
    lost: int,
) -> None:
    """Print the figures against what is wanted, write them and the plot."""
    failed = [write for write in writes if write.failure is not None]
    figures = {span.name: summary(during(writes, span)) for span in spans}
    for name, each in figures.items():
        print(
            f"{name:<14} {each['writes']:>8,} writes  p50 {each['p50']:>7.1f}  p99 {each['p99']:>7.1f}"
            f"  longest {each['longest']:>8.1f} ms"
        )
    busy = [write for span in spans if span.name in _BUSY for write in during(writes, span)]
    before = figures["before"]["p99"]
    ratio = summary(busy)["p99"] / before
    print(f"failed writes              {len(failed):>8}   (target 0){'' if not failed else ' MISSED'}")
    print(f"acknowledged and not there {lost:>8}   (target 0){'' if not lost else ' MISSED'}")
    for name, blocked in swaps.items():
        said = "met" if blocked < BLOCKED_TARGET_MS else "MISSED"
        print(f"swap {name:<8} clients waited {blocked:>7.1f} ms   (target {BLOCKED_TARGET_MS:g}: {said})")
    said = "met" if ratio <= P99_TARGET else "MISSED"
    print(f"p99 while it works / before {ratio:>7.2f}   (target {P99_TARGET:g}: {said})")
    counting = figures["counting"]["p99"] / before
    print(f"p99 while one counts / before {counting:>5.2f}   (no table is touched: what any work costs here)")
    RESULTS.mkdir(exist_ok=True)
    document = {
        "decisions": arguments.decisions,
        "rate": arguments.rate,
        "failed": [write.failure for write in failed],
        "lost": lost,
        "swaps": swaps,
        "p99_ratio": ratio,
        "p99_ratio_counting": counting,
        "spans": figures,
    }
    (RESULTS / "online.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    (RESULTS / "online.svg").write_text(plot(writes, spans), "utf-8")


def during(writes: Sequence[Write], span: Span) -> list[Write]:
    """The writes whose appointed time is in the span."""
    return [write for write in writes if span.begins <= write.due < span.ends]


def summary(writes: Sequence[Write]) -> dict[str, float]:
    """Number and milliseconds."""
    waits = sorted(write.seconds * 1000 for write in writes) or [0.0]
    return {
        "writes": len(writes),
        "p50": waits[len(waits) // 2],
        "p99": waits[min(len(waits) - 1, int(len(waits) * 0.99))],
        "longest": waits[-1],
    }


def plot(writes: Sequence[Write], spans: Sequence[Span]) -> str:
    """Latency over time: a dot a write (logarithmic, 1 ms to 10 s), the phases as stripes."""
    first, last = min(span.begins for span in spans), max(span.ends for span in spans)
    width, height = 1200, 400

    def x(at: float) -> float:
        return 40 + (at - first) / (last - first) * width

    def y(seconds: float) -> float:
        return 20 + height * (1 - (math.log10(min(10.0, max(0.001, seconds))) + 3) / 4)

    stripes = "".join(
        f'<rect x="{x(s.begins):.1f}" y="20" width="{x(s.ends) - x(s.begins):.1f}" height="{height}"'
        f' fill="{"#eef3ee" if place % 2 else "#f7f7f2"}"/>'
        f'<text x="{x(s.begins):.1f}" y="{34 + 12 * (place % 4)}" font-size="10">{s.name}</text>'
        for place, s in enumerate(sorted(spans, key=lambda s: (s.begins, -s.ends)))
    )
    lines = "".join(
        f'<line x1="40" x2="{40 + width}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ccc"/>'
        f'<text x="0" y="{y(v) + 4:.1f}" font-size="10">{v * 1000:g} ms</text>'
        for v in (0.001, 0.01, 0.1, 1.0)
    )
    dots = "".join(
        f'<circle cx="{x(w.due):.1f}" cy="{y(w.seconds):.1f}" r="1"'
        f' fill="{"#2f6f4f" if w.failure is None else "#c00"}"/>'
        for w in writes
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-5 0 {width + 60} {height + 40}"'
        f' font-family="sans-serif">{stripes}{lines}{dots}</svg>\n'
    )


if __name__ == "__main__":
    main()
