"""`mandate serve` as a real process, and a plain HTTP client that can also be rude."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.commands import clean_environment, spawn

from mandate.postgres import programs
from mandate.postgres.connection import Target, connect

T = TypeVar("T")

MIGRATION_008 = next((Path(__file__).parents[1] / "migrations").glob("008_rfc002*.sql"))
# What a decision and a verdict say, in this order.
DECISION = [
    *("decision_id", "organization_id", "domain", "intent", "stage", "actor", "target", "context", "scope"),
    *("timestamp", "spec_id", "spec_version"),
]
VERDICT = [
    *("verdict_id", "organization_id", "domain", "decision_id", "snapshot_id", "verdict"),
    *("matched_policy_ids", "explanation", "spec_id", "spec_version", "scope_id", "owning_team", "timestamp"),
]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """Name of the problem that this is; checks its form."""
        assert self.headers["content-type"] == "application/problem+json"
        document = self.json
        assert document["status"] == self.status
        assert {"type", "title", "detail", "instance"} <= set(document)
        for leak in (b"SELECT", b"mandate.", b"psycopg", b"Traceback", b"decision_events"):
            assert leak not in self.body
        prefix, _, name = document["type"].rpartition(":")
        assert prefix == "urn:mandate:problem"
        return str(name)


def eventually(look: Callable[[], T | None], *, within_seconds: float = 60) -> T:
    """What `look` gives as soon as that is true."""
    end = time.monotonic() + within_seconds
    while not (found := look()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


class Service:
    """A running `mandate serve`."""

    def __init__(self, process: subprocess.Popen[str], started: Mapping[str, Any]) -> None:
        self.process = process
        self.port: int = started["port"]
        self.pid: int = started["pid"]
        self.log_file = Path(started["log_file"])

    def get(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read())
        finally:
            connection.close()

    def rows(self, path: str, cursor: str | None = None) -> list[Any]:
        """All rows of a list (after a cursor), page by page."""
        rows: list[Any] = []
        name = path.partition("?")[0].rpartition("/")[2]
        joint = "&" if "?" in path else "?"
        while True:
            answer = self.get(path if cursor is None else f"{path}{joint}cursor={cursor}")
            assert answer.status == 200, answer.body
            document = answer.json
            assert list(document) == [name, "next_cursor"]
            rows += document[name]
            cursor = document["next_cursor"]
            if cursor is None:
                return rows

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log; each must be a JSON object."""
        text = self.log_file.read_text("utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def line(self, answer: Answer) -> dict[str, Any]:
        """The log's line about a request; it is written after the answer has left."""
        wanted = ("request", answer.headers["x-request-id"])
        return eventually(
            lambda: next((x for x in self._lines() if (x["event"], x.get("request_id")) == wanted), None)
        )

    def _lines(self) -> list[dict[str, Any]]:
        return self.log() if self.log_file.exists() else []

    def stop(self) -> int:
        """End it with SIGTERM; its exit code."""
        self.process.terminate()
        self.process.communicate(timeout=60)
        return self.process.returncode


@contextmanager
def serving(target: Target | str, log_dir: Path, *arguments: str | Path) -> Iterator[Service]:
    """`mandate serve` on a free port until the block ends."""
    dsn = target if isinstance(target, str) else target.conninfo
    given = ("serve", "--port", "0", "--dsn", dsn, "--log-dir", log_dir, "--format", "json", *arguments)
    with spawn(*given) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield Service(process, json.loads(line))
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)


def migrate_with_psql(target: Target, file: Path = MIGRATION_008) -> None:
    """Run 008 the way the guide does, or another migration."""
    with connect(target) as session:
        psql = programs.find("psql", session.server_version // 10000)
    subprocess.run(
        [psql, "--no-psqlrc", "--quiet"],
        stdin=file.open("rb"),
        env=clean_environment(target.environment()),
        check=True,
        capture_output=True,
        timeout=300,
    )
