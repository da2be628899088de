"""Runs a file of checks as it is, statement by statement, and reads each check's own result.

The files of migrations/ are the only text of the checks. Each check is passed, failed or in error:
three different things. `expect=zero` and `expect=nonzero` judge a number; `any` and `rows` inform.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mandate.errors import DatabaseError, DatabaseUnavailable
from mandate.postgres import script
from mandate.postgres.connection import Row, Session, sql
from mandate.progress import Reporter

SHOWN_ROWS = 20

Status = Literal["pass", "fail", "error"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Check:
    """One check and what it found. `rows` are the first offending rows, `fix` a file that repairs them."""

    id: str
    title: str
    section: str
    expect: str
    result: str
    status: Status
    rows: tuple[Row, ...] = ()
    error: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class Report:
    """All checks of a file, and the text that psql would have printed."""

    checks: tuple[Check, ...]
    transcript: str
    notices: tuple[str, ...] = field(default=())

    def count(self, status: Status) -> int:
        """How many checks ended as `status`."""
        return sum(check.status == status for check in self.checks)

    @property
    def passed(self) -> bool:
        """Every check was looked at and none failed; a file without checks proves nothing."""
        return bool(self.checks) and self.count("pass") == len(self.checks)

    def failing(self) -> tuple[Check, ...]:
        """The checks that failed or could not be looked at."""
        return tuple(check for check in self.checks if check.status != "pass")

    def as_evidence(self) -> dict[str, Any]:
        """JSON-able figures for the journal."""
        return {
            "checks": [asdict(check) for check in self.checks],
            "passed": self.count("pass"),
            "failed": self.count("fail"),
            "errors": self.count("error"),
        }


def run(session: Session, path: Path, reporter: Reporter, *, fixes: Path | None = None) -> Report:
    """Run the file at `path`. Raises DatabaseUnavailable when the server goes away.

    The names of its `fixes` begin as its own does: with the migration's number.

    An SQL error ends the file, as ON_ERROR_STOP does in psql: the check that raised it and those that
    were not reached are in error.
    """
    parts = script.read(path)
    nested = session.in_transaction
    total = sum(isinstance(part, script.Statement) for part in parts)
    with reporter.task(path.stem, total=total, unit="statements") as task:
        runner = _Runner(session, path, fixes)
        for done, part in enumerate(parts):
            runner.take(part)
            task.update(done, total=len(parts))
        if session.in_transaction and not nested:
            session.execute("ROLLBACK")  # The file began it and was stopped by an error before its end.
        return runner.report()


def clean_up(session: Session) -> None:
    """Drop the temporary views of a file now, not when the session's process gets to it.

    A server that crashes before would keep them, and they hold on to columns that the migration drops.
    """
    session.execute("DISCARD TEMP")


class _Runner:
    def __init__(self, session: Session, path: Path, fixes: Path | None) -> None:
        self._session = session
        self._prefix = path.name.split("_")[0]
        self._fixes = fixes
        self._section = ""
        self._checks: list[Check] = []
        self._lines: list[str] = []
        self._stopped: str | None = None

    def take(self, part: script.Echo | script.Statement) -> None:
        if isinstance(part, script.Echo):
            self._echo(part.text)
        elif self._stopped is not None:
            self._unreached(part)
        else:
            self._execute(part)

    def report(self) -> Report:
        return Report(tuple(self._checks), "\n".join(self._lines) + "\n", tuple(self._session.notices))

    def _echo(self, text: str) -> None:
        if self._stopped is None:
            self._lines.append(text)
        if text.startswith("==="):
            self._section = text.strip("= ")

    def _execute(self, statement: script.Statement) -> None:
        try:
            columns, rows = self._session.fetch(statement.sql.encode())
        except DatabaseUnavailable:
            raise
        except DatabaseError as error:
            self._fail(statement, error)
            return
        self._lines += _printed(columns, rows, tabular=statement.expect == "rows")
        if statement.check:
            self._checks.append(self._judge(statement, rows))

    def _fail(self, statement: script.Statement, error: DatabaseError) -> None:
        self._stopped = error.message
        self._lines.append(f"ERROR:  {error.message}")
        name = statement.check or f"line_{statement.line}"
        self._checks.append(
            Check(name, name, self._section, statement.expect or "", "", "error", error=error.message)
        )

    def _unreached(self, statement: script.Statement) -> None:
        if statement.check:
            reason = f"not reached: {self._stopped}"
            self._checks.append(
                Check(
                    statement.check,
                    statement.check,
                    self._section,
                    statement.expect or "",
                    "",
                    "error",
                    error=reason,
                )
            )

    def _judge(self, statement: script.Statement, rows: Sequence[Row]) -> Check:
        assert statement.check is not None
        expect = statement.expect or "any"
        title, result = _title_and_result(statement.check, expect, rows)
        status = judge(expect, result)
        bad = tuple(self._offending(statement.check)) if status == "fail" else ()
        return Check(
            statement.check, title, self._section, expect, result, status, bad, fix=self._fix(statement.check)
        )

    def _offending(self, check: str) -> Iterator[Row]:
        view = f"bad_{check}"
        if self._session.value("SELECT to_regclass('pg_temp.' || quote_ident(%s))", (view,)) is None:
            return
        query = sql.SQL("SELECT * FROM {} LIMIT {}").format(
            sql.Identifier("pg_temp", view), sql.Literal(SHOWN_ROWS)
        )
        for row in self._session.rows(query):
            yield {key: value if value is None else str(value) for key, value in row.items()}

    def _fix(self, check: str) -> str | None:
        if self._fixes is None:
            return None
        path = self._fixes / f"{self._prefix}_{check}.sql"
        return str(path) if path.is_file() else None


def judge(expect: str, result: str) -> Status:
    """Pass or fail of a result; text where a number is expected is an error."""
    if expect in ("any", "rows"):
        return "pass"
    try:
        number = int(result)
    except ValueError:
        return "error"
    return "pass" if (number == 0) == (expect == "zero") else "fail"


def _title_and_result(check: str, expect: str, rows: Sequence[Row]) -> tuple[str, str]:
    """What is shown of a check. Several rows of a `zero` check count together: none may differ from 0."""
    name = check.replace("_", " ")
    if expect == "rows" or not rows:
        return name, f"{len(rows)} rows" if expect == "rows" else ""
    pairs = [(str(title), _text(result)) for title, result in (_pair(row, name) for row in rows)]
    if len(pairs) == 1:
        return pairs[0]
    if expect != "zero" or not all(result.isdigit() for _, result in pairs):
        return name, "; ".join(f"{title}: {result}" for title, result in pairs)
    bad = [(title, int(result)) for title, result in pairs if int(result)]
    return "; ".join(title for title, _ in bad) or name, str(sum(result for _, result in bad))


def _pair(row: Row, name: str) -> tuple[Any, Any]:
    values = list(row.values())
    return (values[0], values[1]) if len(values) > 1 else (name, values[0])


def _text(value: Any) -> str:
    """A value as psql shows it: what a terminal would act upon is escaped."""
    return "" if value is None else _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02X}", str(value))


def _printed(columns: Sequence[str], rows: Sequence[Row], *, tabular: bool) -> list[str]:
    separator = " | " if tabular else ": "
    heading = [separator.join(columns)] if tabular and columns else []
    return heading + [separator.join(_text(value) for value in row.values()) for row in rows]
