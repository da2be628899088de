"""Step 10 of the guide: the API answers rightly, the domain filter filters, the logs are quiet.

Every answer is held against the database when there is a session: an empty list is only right if the table
is empty, and a filtered page must hold as many rows as the table has of that domain.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr

from mandate.errors import NotMandate, VerificationFailed
from mandate.postgres.connection import Row, Session
from mandate.progress import Reporter, Task
from mandate.runbook import http, logs
from mandate.runbook.services import process
from mandate.settings import Settings

# What every row of the two lists has.
_BOTH = frozenset(
    {"organization_id", "domain", "decision_id", "spec_id", "spec_version", "timestamp", "verdict"}
)
DECISION_KEYS = _BOTH | {"intent", "stage", "actor", "target", "context", "scope"}
VERDICT_KEYS = _BOTH | {
    "verdict_id",
    "snapshot_id",
    "matched_policy_ids",
    "explanation",
    "scope_id",
    "owning_team",
}
NO_SUCH_DOMAIN = "no-such-domain-by-mandate-smoke"

_USUAL_DOMAIN = "finance"
_DOMAINS_TRIED = 20
_CALLS = 5
_COUNT_LIMIT = 500
_SQL = Path(__file__).parent / "sql"
_MAX_PROBLEMS_SHOWN = 5


@dataclass
class Smoke:
    """What the smoke tests found. `evidence` as in runbook/record.py; no problem means passed."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    domain: str | None = None
    rows_checked: int = 0
    logs: logs.Scan = field(default_factory=logs.Scan)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def evidence(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "domain": self.domain,
            "rows_checked": self.rows_checked,
            "logs": self.logs.as_dict(),
        }

    @property
    def summary(self) -> str:
        good = sum(bool(call["ok"]) for call in self.calls)
        filtered = f"{self.rows_checked} rows of {self.domain} compared" if self.domain else "no row compared"
        lines = f"{self.logs.lines:,} new log lines of {len(self.logs.files)} files"
        return f"{good} of {len(self.calls)} calls right, {filtered}; {self.logs.found} findings in {lines}"

    def require_passed(self) -> None:
        """Raises VerificationFailed that names what failed and carries the evidence."""
        if not self.problems:
            return
        shown = self.problems[:_MAX_PROBLEMS_SHOWN]
        if len(self.problems) > len(shown):
            shown.append(f"and {len(self.problems) - len(shown)} more")
        raise VerificationFailed(
            "\n  ".join([f"smoke tests failed ({len(self.problems)}):", *shown]),
            hint="look at the service's logs; `mandate smoke` repeats this step alone",
            evidence=self.evidence,
            warnings=self.warnings,
        )


def log_globs(settings: Settings) -> list[str]:
    """The log files to watch: `smoke.log_globs`, those of processes that are services, `serve.log_dir`."""
    processes = settings.services.process if settings.services.kind == "process" else []
    files = [process.log_file(one) for one in processes]
    if settings.serve.log_dir is not None:
        files.append(settings.serve.log_dir / "mandate-serve.log")
    return [*settings.smoke.log_globs, *(glob.escape(str(file)) for file in files)]


def run(
    settings: Settings,
    session: Session | None,
    reporter: Reporter,
    *,
    marks: Mapping[str, Mapping[str, Any]] | None = None,
    since: datetime | None = None,
) -> Smoke:
    """Make the calls and scan the logs. `marks` and `since` say which log lines are new (see logs.scan)."""
    smoke = Smoke()
    with reporter.task("smoke tests", total=_CALLS + 1, unit="checks") as task:
        _Caller(settings, session, smoke, task).call_all()
        smoke.logs = logs.scan(log_globs(settings), marks, since)
        task.update(_CALLS + 1)
    smoke.warnings += smoke.logs.warnings
    smoke.problems += [f"{one.file}:{one.line}: {one.text}" for one in smoke.logs.findings]
    return smoke


class _Wrong(Exception):
    """An answer that is not as it must be."""


_MAY_ASK = """
    SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'mandate_access' AND c.relname = 'tokens'
"""


class _Caller:
    def __init__(self, settings: Settings, session: Session | None, smoke: Smoke, task: Task) -> None:
        self._base = http.checked(settings.smoke.base_url).rstrip("/")
        self._token = settings.smoke.token
        self._domain = settings.smoke.domain
        self._timeout = settings.smoke.timeout_seconds
        self._counts = _counter(session, self._token) if session else None
        self._smoke = smoke
        self._task = task

    def call_all(self) -> None:
        have = self._counts("") if self._counts else None
        self._get("/api/decisions", {}, lambda body: _page(body, "decisions", DECISION_KEYS, have))
        self._get("/api/verdicts", {}, lambda body: _page(body, "verdicts", VERDICT_KEYS, have))
        domain = self._domain or self._find_domain(have)
        if domain is None:
            self._smoke.warnings.append("no domain has a decision: the domain filter was not tested")
            return
        self._smoke.domain = domain
        before = self._counts(domain) if self._counts else None
        self._get("/api/decisions", {"domain": domain}, lambda body: self._filtered(body, domain, before))
        self._get("/api/decisions", {"domain": NO_SUCH_DOMAIN}, _nothing)

    def _get(self, path: str, query: Mapping[str, str], check: Callable[[Any], str]) -> None:
        """One call, recorded; a wrong answer is a problem and the others are still made."""
        url = self._base + path + (f"?{urlencode(query)}" if query else "")
        call: dict[str, Any] = {"url": url, "status": None, "ok": False, "milliseconds": None}
        try:
            answer = http.get(url, self._timeout, token=self._token)
            call |= {"status": answer.status, "milliseconds": round(answer.milliseconds, 1)}
            if answer.status != 200:
                raise _Wrong(f"answered {answer.status}: {answer.snippet}")
            call |= {"detail": check(answer.json()), "ok": True}
        except (_Wrong, http.NoAnswer, http.NotJson) as error:
            call["detail"] = f"{'not JSON, ' if isinstance(error, http.NotJson) else ''}{error}"
            self._smoke.problems.append(f"GET {url}: {call['detail']}")
        self._smoke.calls.append(call)
        self._task.update(len(self._smoke.calls))

    def _find_domain(self, have: Row | None) -> str | None:
        """`finance`, else the first domain of /api/domains, for which the service shows a decision."""
        names: list[str] = []
        self._get("/api/domains", {}, lambda body: _names(body, names))
        for name in dict.fromkeys([_USUAL_DOMAIN, *names[:_DOMAINS_TRIED]]):
            if self._has_decisions(name):
                return name
        if have and have["decisions"]:
            self._smoke.problems.append(
                "the database has decisions, and the service shows none for"
                f" {_USUAL_DOMAIN} or any of the first {_DOMAINS_TRIED} domains"
            )
        return None

    def _has_decisions(self, domain: str) -> bool:
        if self._counts:
            return bool(self._counts(domain)["of_domain"])
        query = urlencode({"domain": domain, "limit": 1})
        try:
            body = http.get(f"{self._base}/api/decisions?{query}", self._timeout, token=self._token).json()
        except (http.NoAnswer, http.NotJson):
            return False
        return isinstance(body, dict) and bool(body.get("decisions"))

    def _filtered(self, body: Any, domain: str, before: Row | None) -> str:
        rows = _rows(body, "decisions", DECISION_KEYS)
        for place, row in enumerate(rows, start=1):
            if row["domain"] != domain:
                raise _Wrong(
                    f"row {place} ({row['decision_id']}) is of domain {row['domain']!r}, not {domain!r}"
                )
        self._smoke.rows_checked = len(rows)
        if before is not None and self._counts:
            _as_many(len(rows), body["next_cursor"], before["of_domain"], self._counts(domain)["of_domain"])
        elif not rows:
            raise _Wrong(f"no decision of domain {domain!r}: an empty answer shows nothing about the filter")
        return f"{len(rows)} decisions, each of domain {domain}"


def _as_many(rows: int, cursor: object, before: int, after: int) -> None:
    """Hold a filtered page against the table, counted before and after the call: somebody may be writing."""
    if rows == 0 and before == 0:
        raise _Wrong("the database has no decision of this domain, so the filter cannot be tested with it")
    more = cursor is not None and rows > 0
    if rows > after and after <= _COUNT_LIMIT:
        raise _Wrong(f"{rows} decisions answered, the database has {after} of this domain")
    if rows < before and not more:
        least = f"{before}" if before <= _COUNT_LIMIT else f"more than {_COUNT_LIMIT}"
        raise _Wrong(f"{rows} decisions answered and no further page, the database has {least}")


def _page(body: Any, name: str, keys: frozenset[str], have: Row | None) -> str:
    rows = _rows(body, name, keys)
    if not rows and have is not None and have[name]:
        raise _Wrong(f"no {name} answered, and the database has some")
    return f"{len(rows)} {name}"


def _nothing(body: Any) -> str:
    rows = _rows(body, "decisions", DECISION_KEYS)
    if rows:
        raise _Wrong(f"{len(rows)} decisions of a domain that does not exist: the filter is ignored")
    return "empty, as it must be"


def _names(body: Any, names: list[str]) -> str:
    names += [str(row["domain"]) for row in _rows(body, "domains", frozenset({"domain"}))]
    return f"{len(names)} domains"


def _rows(body: Any, name: str, keys: frozenset[str]) -> Sequence[Mapping[str, Any]]:
    """The rows of `{"<name>": [...], "next_cursor": ...}`, each with all of `keys`."""
    if not isinstance(body, dict) or not isinstance(body.get(name), list) or "next_cursor" not in body:
        raise _Wrong(f'not of the form {{"{name}": [...], "next_cursor": ...}}')
    for place, row in enumerate(body[name], start=1):
        if not isinstance(row, dict):
            raise _Wrong(f"row {place} of {name} is not an object")
        if missing := sorted(keys - row.keys()):
            raise _Wrong(f"row {place} of {name} has no {', '.join(missing)}")
    rows: Sequence[Mapping[str, Any]] = body[name]
    return rows


def _counter(session: Session, token: SecretStr | None) -> Callable[[str], Row]:
    """How many rows the database has that the token may see, in its schema's dialect. Raises NotMandate."""
    version = session.value(
        "SELECT CASE WHEN bool_or(attname = 'domain_id') THEN 7 WHEN bool_or(attname = 'domain') THEN 8 END"
        " FROM pg_attribute WHERE attrelid = to_regclass('mandate.decision_events') AND NOT attisdropped"
    )
    if version is None:
        raise NotMandate(
            "the database has no mandate.decision_events to hold the service's answers against",
            hint="check --dsn",
        )
    query = (_SQL / f"smoke_counts_v{version}.sql").read_bytes()
    held = _held(session, token)

    def count(domain: str) -> Row:
        row = session.row(query, {"domain": domain, **held})
        assert row is not None
        return row

    return count


def _held(session: Session, token: SecretStr | None) -> dict[str, Any]:
    """The organization and the domains that a token is for; None for all of them."""
    everything = {"organization_id": None, "domains": None}
    if token is None or not session.value(_MAY_ASK):
        return everything
    found = session.row(
        "SELECT organization_id, domains FROM mandate_access.tokens WHERE token_id = split_part(%s, '_', 2)",
        (token.get_secret_value(),),
    )
    return everything if found is None else dict(found)
