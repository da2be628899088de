"""Who could still write to the database, proven from pg_stat_activity and pg_prepared_xacts."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mandate.errors import WriterConnected
from mandate.postgres import lock
from mandate.postgres.connection import Row, Session, redact

_SQL = (Path(__file__).parent / "sql" / "writers.sql").read_bytes()
_POLL_SECONDS = 0.2
_QUERY_LENGTH = 100
_SHOWN = 10
_LITERAL = re.compile(r"\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)|'(?:[^']|'')*(?:'|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Writer:
    """One that can write. `pid` is None for a prepared transaction, whose `query` is its gid.

    `since`: start of its transaction, else of its present state; None when this role may not see it.
    `query` is the last statement without its literals, at most 100 characters.
    """

    pid: int | None
    kind: str
    user: str
    application: str
    address: str
    state: str
    since: datetime | None
    query: str

    @property
    def how_to_end(self) -> str:
        """The SQL statement that makes it go away."""
        if self.pid is None:
            return f"ROLLBACK PREPARED '{self.query.replace(chr(39), chr(39) * 2)}'"
        if "logical replication" in self.kind:
            return "ALTER SUBSCRIPTION ... DISABLE (pg_stat_subscription has its name)"
        return f"SELECT pg_terminate_backend({self.pid})"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `since` in ISO form."""
        return {**asdict(self), "since": self.since.isoformat() if self.since else None}

    def __str__(self) -> str:
        if self.pid is None:
            return f"prepared transaction {self.query!r} of user {self.user}{self._when}"
        kind = "" if self.kind == "client backend" else f" ({self.kind})"
        name = f" {self.application!r}" if self.application else ""
        place = f" from {self.address}" if self.address else ""
        state = f", {self.state}" if self.state else ""
        query = f", last: {self.query}" if self.query else ""
        return f"pid {self.pid}{kind}: user {self.user}{name}{place}{state}{self._when}{query}"

    @property
    def _when(self) -> str:
        return f" since {self.since:%Y-%m-%d %H:%M:%S %Z}" if self.since else ""


# Our own commands that only look: somebody who watches a run must not stop it.
READERS = ("mandate-watch", "mandate-status", "mandate-plan")


def connected(session: Session, run_application_name: str, ignore: Sequence[str] = ()) -> list[Writer]:
    """Everybody who can write now, apart from this run and `ignore` (application_name patterns, * and ?).

    This run: sessions of exactly `run_application_name`, and the one that holds the run's lock.
    """
    return split(session, run_application_name, ignore)[0]


def split(
    session: Session, run_application_name: str, ignore: Sequence[str] = ()
) -> tuple[list[Writer], list[Writer]]:
    """Like `connected`, with those that `ignore` lets through as the second list."""
    # Inside a transaction PostgreSQL would go on answering with what it saw first.
    session.execute("SELECT pg_stat_clear_snapshot()")
    holder = lock.holder(session)
    ours = {holder["pid"]} if holder else set()
    others = [
        _writer(row)
        for row in session.rows(_SQL)
        if row["application"] not in (run_application_name[:63], *READERS) and row["pid"] not in ours
    ]
    patterns = [_pattern(text) for text in ignore]
    ignored = [w for w in others if w.pid is not None and any(p.fullmatch(w.application) for p in patterns)]
    return [writer for writer in others if writer not in ignored], ignored


def wait_until_gone(
    session: Session, run_application_name: str, ignore: Sequence[str] = (), *, timeout_seconds: float = 5.0
) -> list[Writer]:
    """Give closing connections a moment; whoever is still there after it. Empty is the proof."""
    deadline = time.monotonic() + timeout_seconds
    while (left := connected(session, run_application_name, ignore)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return left


def sees_everything(session: Session) -> bool:
    """Whether this role may see what other users' sessions do (it always sees that they are there)."""
    return bool(session.value("SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"))


def refusal(writers: Sequence[Writer], *, sees_all: bool, **fields: Any) -> WriterConnected:
    """The error that names them, with how to end each."""
    count = f"{len(writers)} {'writer is' if len(writers) == 1 else 'writers are'} still connected"
    lines = [f"  {writer}" for writer in writers[:_SHOWN]]
    if len(writers) > _SHOWN:
        lines.append(f"  and {len(writers) - _SHOWN} more")
    ends = list(dict.fromkeys(writer.how_to_end for writer in writers[:_SHOWN]))
    hint = (
        "stop what they belong to, or end them: " + "; ".join(ends) + ". One that may stay goes into"
        " services.ignore_applications of mandate.toml"
    )
    if not sees_all:
        hint += ". Details are hidden from this role: GRANT pg_read_all_stats to it"
    return WriterConnected(
        "\n".join([f"{count} to the database:", *lines]),
        hint=hint,
        writers=[writer.as_dict() for writer in writers],
        **fields,
    )


def _writer(row: Row) -> Writer:
    query = row["query"] if row["pid"] is None else _short(row["query"])
    return Writer(**{**row, "query": query})


def _short(query: str) -> str:
    """One line without literals: they may be secrets or somebody's data, and may be cut off half-way."""
    text = " ".join(_LITERAL.sub("'…'", redact(query)).split())
    return text if len(text) <= _QUERY_LENGTH else text[: _QUERY_LENGTH - 1] + "…"


def _pattern(text: str) -> re.Pattern[str]:
    escaped = re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped, re.DOTALL)
