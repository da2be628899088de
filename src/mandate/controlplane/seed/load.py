"""A history into a database, in one transaction: killed half-way, nothing of it is there."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from mandate.controlplane.seed import bulk, reference, schema
from mandate.controlplane.seed.dialect import Dialect, Version
from mandate.controlplane.seed.history import Block, History, plan
from mandate.controlplane.seed.parameters import Parameters
from mandate.errors import (
    CheckFailed,
    DatabaseError,
    DatabaseUnavailable,
    DiskFull,
    LockNotAvailable,
    OutcomeUnknown,
    RunLocked,
)
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.postgres.copying import copy_text, insert, statement
from mandate.progress import Reporter, Silent

# Below this, dropping and building 39 indexes costs more than keeping them up to date.
BULK_FROM_DECISIONS = 20_000
APPLICATION_NAME = "mandate-db-seed"
_BLOCKS_AHEAD = 3
_ADVISORY_KEY = 0x6D616E64_73656564
_SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "client_encoding": "UTF8",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "synchronous_commit": "on",
}


class OtherRows(CheckFailed):
    """The database has decisions already, and nobody said --append."""

    code = "has-decisions"


@dataclass(frozen=True)
class Summary:
    """What a load did. `already` means that this very history was there and nothing was changed."""

    database: str
    version: Version
    parameters: Parameters
    already: bool
    method: str
    rows: dict[str, int]
    seconds: dict[str, float]

    @property
    def total_rows(self) -> int:
        return sum(self.rows.values())

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def rows_per_second(self) -> float | None:
        """None where nothing was loaded."""
        return self.total_rows / self.total_seconds if self.rows and self.total_seconds else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **asdict(self),
            "parameters": self.parameters.as_dict(),
            "total_rows": self.total_rows,
            "total_seconds": self.total_seconds,
            "rows_per_second": self.rows_per_second,
        }


def load(
    target: Target,
    parameters: Parameters,
    reporter: Reporter | None = None,
    *,
    append: bool = False,
    lock_timeout_seconds: float = 10.0,
) -> Summary:
    """Seed the database, or say that it has this history already.

    Raises OtherRows, NotMandate, RunLocked or a DatabaseError; in each case nothing was changed.
    """
    settings = {**_SESSION, "lock_timeout": f"{round(lock_timeout_seconds * 1000)}ms"}
    with connect(target, application_name=APPLICATION_NAME, settings=settings) as session, _explained():
        return _Load(session, plan(parameters), reporter or Silent()).run(append)


class _Load:
    def __init__(self, session: Session, history: History, reporter: Reporter) -> None:
        self._session = session
        self._history = history
        self._reporter = reporter
        self._rows: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def run(self, append: bool) -> Summary:
        version = schema.version(self._session)
        if self._is_there(append):
            return self._summary(version, "none", already=True)
        committing = False
        try:
            with self._session.transaction():
                version, fast = self._lock(append)
                self._fill(version, fast)
                committing = True
        except DatabaseUnavailable as error:
            if not committing:
                raise
            raise OutcomeUnknown(
                "the connection was lost while the history was being committed",
                hint="run the same command again: it says whether the rows are there",
            ) from error
        self._analyze()
        return self._summary(version, "bulk" if fast else "rows", already=False)

    def _is_there(self, append: bool) -> bool:
        """True for this very history. Raises OtherRows for others, unless they may be there."""
        session, parameters = self._session, self._history.parameters
        present = schema.histories(session)
        if parameters.as_dict() in present:
            return True
        if append or schema.is_empty(session):
            return False
        what = (
            f"a history seeded with {_arguments(present[0])}" if present else "decisions that were not seeded"
        )
        raise OtherRows(
            f"database {session.value('SELECT current_database()')!r} holds {what}",
            hint="--append adds a second history beside it; a new database needs `mandate db init` first",
            present=present,
        )

    def _lock(self, append: bool) -> tuple[Version, bool]:
        """Keep others away, then look again: only what is seen under the locks counts."""
        session = self._session
        if not session.value("SELECT pg_try_advisory_xact_lock(%s)", (_ADVISORY_KEY,)):
            raise RunLocked("another `mandate db seed` is at work in this database")
        many = self._history.parameters.decisions >= BULK_FROM_DECISIONS
        fast = many and schema.is_empty(session) and schema.may_alter(session)
        mode = sql.SQL("ACCESS EXCLUSIVE" if fast else "ROW EXCLUSIVE")
        names = sql.SQL(", ").join(sql.Identifier("mandate", table) for table in schema.LARGE)
        session.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(names, mode))
        if self._is_there(append):
            raise RunLocked("another `mandate db seed` has just loaded this history")
        return schema.version(session), fast and schema.is_empty(session)

    def _fill(self, version: Version, fast: bool) -> None:
        dialect = self._history.dialect(version)
        with self._timed("reference"):
            self._insert_reference(dialect)
        if not fast:
            with self._timed("copy"):
                self._copy(dialect, frozen=())
            return
        bulk.tune(self._session, memory_kib=262_144, workers=max(0, min(4, (os.cpu_count() or 1)) - 1))
        frozen = bulk.new_files(self._session, schema.LARGE)
        aside = bulk.put_aside(self._session, schema.LARGE)
        with self._timed("copy"):
            self._copy(dialect, frozen)
        with (
            self._timed("indexes"),
            self._reporter.task("Building indexes", total=len(aside.creates), unit="objects") as task,
        ):
            bulk.put_back(self._session, aside, task)

    def _insert_reference(self, dialect: Dialect) -> None:
        unselective = not schema.has_unselective_scope(self._session)
        for table, rows in reference.tables(dialect, unselective=unselective):
            if rows:
                insert(self._session, table, rows)
                self._rows[table] += len(rows)

    def _copy(self, dialect: Dialect, frozen: Collection[str]) -> None:
        copies = {
            table: statement(table, dialect.columns(table), freeze=table in frozen) for table in schema.LARGE
        }
        decisions = self._history.parameters.decisions
        done = rows = 0
        with (
            self._reporter.task("Loading decisions", total=decisions, unit="decisions") as task,
            _ahead(self._history.blocks(dialect.version)) as blocks,
        ):
            for block in blocks:
                for table, copy in copies.items():
                    self._rows[table] += copy_text(self._session, copy, block.data[table])
                done += block.decisions
                rows += sum(block.rows.values())
                task.update(done, note=f"{rows:,} rows")

    def _analyze(self) -> None:
        """Statistics, after the commit: the history is there with them or without."""
        with self._timed("analyze"), self._reporter.task("Gathering statistics"):
            try:
                for table in self._rows:
                    self._session.execute(sql.SQL("ANALYZE mandate.{}").format(sql.Identifier(table)))
            except DatabaseError as error:
                self._reporter.line(f"the history is there, but ANALYZE failed: {error.message}")

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds[phase] = time.monotonic() - began

    def _summary(self, version: Version, method: str, *, already: bool) -> Summary:
        name = str(self._session.value("SELECT current_database()"))
        parameters = self._history.parameters
        return Summary(name, version, parameters, already, method, dict(self._rows), dict(self._seconds))


@contextmanager
def _ahead(blocks: Iterator[Block]) -> Iterator[Iterator[Block]]:
    """The same blocks, a few of them generated ahead while PostgreSQL takes in the current one."""
    with ThreadPoolExecutor(1, thread_name_prefix="seed") as executor:
        waiting: deque[Future[Block | None]] = deque()

        def ordered() -> Iterator[Block]:
            while True:
                while len(waiting) < _BLOCKS_AHEAD:
                    waiting.append(executor.submit(next, blocks, None))
                block = waiting.popleft().result()
                if block is None:
                    return
                yield block

        try:
            yield ordered()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of PostgreSQL with what they mean here. In each case the transaction is undone."""
    try:
        yield
    except DiskFull as error:
        raise DiskFull(
            f"the server's disk is full: {error.message}",
            hint="nothing was changed; free some space or ask for fewer --decisions",
            **error.fields,
        ) from error
    except LockNotAvailable as error:
        raise LockNotAvailable(
            f"the tables are in use: {error.message}",
            hint="nothing was changed; stop the services that use this database and run it again",
            **error.fields,
        ) from error
    except DatabaseError as error:
        if error.sqlstate != "23505":
            raise
        raise CheckFailed(
            f"the generated rows meet rows that are there: {error.fields.get('detail', error.message)}",
            hint="nothing was changed; choose another --seed",
            **error.fields,
        ) from error


def _arguments(parameters: dict[str, Any]) -> str:
    return " ".join(f"--{name} {value}" for name, value in parameters.items())
