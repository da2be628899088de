"""A client that reads from a service without a pause, and counts what it is refused."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mandate.runbook import http

_PATHS = ("/api/decisions?limit=5", "/api/verdicts?limit=5", "/api/domains?limit=5")
_PAUSE_SECONDS = 0.05
_CALL_SECONDS = 10.0


@dataclass
class Visits:
    """How often it asked, how often the answer was not 200, and what was wrong the first time."""

    asked: int = 0
    refused: int = 0
    first: str | None = None

    @property
    def said(self) -> str:
        """For a person."""
        return f"{self.refused:,} were refused: {self.first}" if self.refused else "none was refused."


@contextmanager
def visiting(base_url: str) -> Iterator[Visits]:
    """Visit a service until the block ends."""
    visits, stopping = Visits(), threading.Event()
    thread = threading.Thread(target=_visit, args=(base_url.rstrip("/"), visits, stopping), daemon=True)
    thread.start()
    try:
        yield visits
    finally:
        stopping.set()
        thread.join(_CALL_SECONDS)


def _visit(base: str, visits: Visits, stopping: threading.Event) -> None:
    for path in itertools.cycle(_PATHS):
        if stopping.wait(_PAUSE_SECONDS):
            return
        visits.asked += 1
        if wrong := _wrong(base + path):
            visits.refused += 1
            visits.first = visits.first or wrong


def _wrong(url: str) -> str | None:
    try:
        answer = http.get(url, _CALL_SECONDS)
    except http.NoAnswer as error:
        return f"GET {url}: {error}"
    return None if answer.status == 200 else f"GET {url}: {answer.status} {answer.snippet}"
