"""What the benchmarks of migration 008 share: a server with a seeded history, clones of it, plain plots."""

from __future__ import annotations

import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mandate.controlplane import seed
from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect, sql
from mandate.postgres.embedded_host import free_port
from mandate.progress import Silent
from mandate.runbook import migrations

RESULTS = Path(__file__).parent / "results"


@contextmanager
def seeded(decisions: int) -> Iterator[Target]:
    """A version 7 database with a history, on a server of its own that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="mandate-bench-") as name:
        place = Path(name)
        place.chmod(0o755)
        server = embedded.start(place / "postgresql", port=free_port())
        try:
            template = server.target("bench_template")
            migrations.init(template, to=7)
            say(f"seeding {decisions:,} decisions")
            seed.load(template, seed.Parameters(decisions=decisions), Silent())
            yield template
        finally:
            embedded.stop(server.data_dir)


def clone(template: Target, name: str) -> Target:
    """A copy of the seeded database, with nothing left of it to be written later."""
    with connect(template.with_database("postgres")) as session:
        names = sql.Identifier(name), sql.Identifier(template.database)
        session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(names[0]))
        session.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        session.execute(sql.SQL("ALTER DATABASE {} SET search_path = mandate, public").format(names[0]))
        session.execute("CHECKPOINT")
    return template.with_database(name)


def drop(target: Target) -> None:
    """A clone is not needed any more."""
    with connect(target.with_database("postgres")) as session:
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(target.database)))


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


def bars(values: Sequence[tuple[str, float]]) -> str:
    """An SVG with a bar for each (label, seconds)."""
    longest = max(value for _, value in values)
    rows = "".join(
        f'<text x="0" y="{40 + 60 * place}">{label}</text>'
        f'<rect x="0" y="{48 + 60 * place}" width="{480 * value / longest:.0f}" height="20"'
        f' fill="{"#2f6f4f" if place == 0 else "#8a8a8a"}"/>'
        f'<text x="{480 * value / longest + 8:.0f}" y="{63 + 60 * place}">{value:.1f} s</text>'
        for place, (label, value) in enumerate(values)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 620 {40 + 60 * len(values)}"'
        f' font-family="sans-serif" font-size="14">{rows}</svg>\n'
    )


def say(text: str) -> None:
    """Progress on stderr."""
    print(text, file=sys.stderr, flush=True)
