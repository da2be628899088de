"""Order-independent fingerprints: two sets of rows are the same, or they are not.

A fingerprint is the number of rows, and the sum and the xor of a 64-bit hash of each row's canonical
text, computed in the server. It adds up: the fingerprint of a table is that of its chunks together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from mandate.postgres.connection import Row, Session, sql
from mandate.progress import Reporter, Silent, Task

TABLES_SQL = (Path(__file__).parent / "sql" / "tables.sql").read_bytes()

# 64 MiB of table: a second or so of work, so that progress moves and workers share a large table.
CHUNK_BLOCKS = 8192

_CANCEL_AGAIN_SECONDS = 0.2

# Whatever the server, database or role say about output formats, the text of a row is this.
# row_security off: a policy that would hide rows is an error instead.
_CANONICAL = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "search_path": "pg_catalog",
    "xmlbinary": "base64",
}


@dataclass(frozen=True)
class Fingerprint:
    """Rows, and sum and xor of their hashes as decimal text (they outgrow JSON's integers)."""

    rows: int = 0
    sum: str = "0"
    xor: str = "0"

    def __add__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(
            self.rows + other.rows,
            str(int(self.sum) + int(other.sum)),
            str(int(self.xor) ^ int(other.xor)),
        )

    def __str__(self) -> str:
        return f"{self.rows}:{self.sum}:{self.xor}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of str(). Raises ValueError."""
        rows, total, xor = text.split(":")
        return cls(int(rows), str(int(total)), str(int(xor)))


def fingerprint(
    session: Session, source: sql.Composable, columns: Sequence[sql.Composable] | None = None
) -> Fingerprint:
    """Fingerprint of a table (sql.Identifier) or of a query (any other composable).

    `columns` are expressions over the source's columns; None means all columns in their order. Names in
    a query must be qualified: only pg_catalog is on the search path. Raises DatabaseError, also when row
    level security would hide rows.
    """
    with canonical(session):
        if isinstance(source, sql.Identifier):
            return _measure(session, source, columns)
        return _measure(session, sql.SQL("({})").format(source), columns)


def fingerprint_hashed(session: Session, query: sql.Composable, hashed: sql.Composable) -> Fingerprint:
    """Fingerprint of a query by `hashed`, an expression over its row `source`: see row_hash.py."""
    with canonical(session):
        return _measure(session, sql.SQL("({})").format(query), hashed=hashed)


def fingerprint_schema(
    session: Session,
    schemas: Sequence[str] | None = None,
    *,
    workers: Sequence[Session] = (),
    reporter: Reporter | None = None,
    label: str = "fingerprint tables",
) -> dict[str, Fingerprint]:
    """Fingerprint of every table of `schemas` (None: all but system schemas), by schema.table (unquoted).

    All in one snapshot: the transaction that `session` is in, which must then be REPEATABLE READ, else one
    of its own. `workers` are idle sessions of the same database that share the work and the snapshot.
    """
    with one_snapshot(session, workers), ExitStack() as stack:
        rows = tables(session, schemas)
        for each in (session, *workers):
            stack.enter_context(canonical(each))
        found = {row["name"]: Fingerprint() for row in rows}
        chunks = [chunk for row in rows for chunk in _chunks(row)]
        total = sum(chunk.bytes for chunk in chunks)
        with (reporter or Silent()).task(label, total=total, unit="bytes") as task:
            for chunk, measured in _spread(chunks, (session, *workers), task):
                found[chunk.table] += measured
    return found


def tables(session: Session, schemas: Sequence[str] | None = None) -> list[Row]:
    """Each table's leaves: name, columns, leaf_schema, leaf_relation, bytes, blocks (see tables.sql)."""
    return session.rows(TABLES_SQL, {"schemas": None if schemas is None else list(schemas)})


@contextmanager
def one_snapshot(session: Session, workers: Sequence[Session] = ()) -> Iterator[str]:
    """All sessions in read-only transactions that see the same; yields the snapshot's name.

    A session that is in a transaction stays in it (it must be REPEATABLE READ).
    """
    with ExitStack() as stack:
        if not session.in_transaction:
            stack.enter_context(session.transaction())
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        name: str = session.value("SELECT pg_catalog.pg_export_snapshot()")
        for worker in workers:
            stack.enter_context(worker.transaction())
            worker.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            worker.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(name)))
        yield name


@contextmanager
def canonical(session: Session) -> Iterator[None]:
    """A transaction in which values have one text; the caller's own transaction gets its settings back."""
    with session.transaction():
        rows = session.rows(
            "SELECT s.name, pg_catalog.current_setting(s.name) AS value"
            " FROM pg_catalog.unnest(%s::text[]) AS s (name)",
            (list(_CANONICAL),),
        )
        _set(session, _CANONICAL)
        yield
        _set(session, {row["name"]: row["value"] for row in rows})


def _set(session: Session, settings: Mapping[str, str]) -> None:
    session.execute(
        "SELECT pg_catalog.set_config(s.name, s.value, true)"
        " FROM unnest(%s::text[], %s::text[]) AS s (name, value)",
        (list(settings), list(settings.values())),
    )


@dataclass(frozen=True)
class _Chunk:
    """Some of a table's rows: the blocks [first, last) of a leaf; last None means to the end."""

    table: str
    leaf: sql.Identifier
    columns: tuple[sql.Identifier, ...]
    first: int
    last: int | None
    bytes: float


def _chunks(row: Row) -> Iterator[_Chunk]:
    if row["leaf_relation"] is None:
        return
    leaf = sql.Identifier(row["leaf_schema"], row["leaf_relation"])
    columns = tuple(sql.Identifier(name) for name in row["columns"])
    starts = range(0, max(1, row["blocks"]), CHUNK_BLOCKS)
    for first in starts:
        last = None if first == starts[-1] else first + CHUNK_BLOCKS
        yield _Chunk(row["name"], leaf, columns, first, last, row["bytes"] / len(starts))


def _spread(
    chunks: Sequence[_Chunk], sessions: Sequence[Session], task: Task
) -> Iterator[tuple[_Chunk, Fingerprint]]:
    """Measure the chunks, as many at a time as there are sessions; largest first."""
    idle: SimpleQueue[Session] = SimpleQueue()
    for session in sessions:
        idle.put(session)
    done = 0.0
    with ThreadPoolExecutor(len(sessions)) as pool:
        ordered = sorted(chunks, key=lambda chunk: -chunk.bytes)
        running = {pool.submit(_measure_chunk, idle, chunk): chunk for chunk in ordered}
        try:
            for future in as_completed(running):
                chunk = running[future]
                done += chunk.bytes
                task.update(done, note=chunk.table.rpartition(".")[2])
                yield chunk, future.result()
        except BaseException:
            _stop(pool, running, sessions)
            raise


def _stop(
    pool: ThreadPoolExecutor, running: dict[Future[Fingerprint], _Chunk], sessions: Sequence[Session]
) -> None:
    """Cancel what runs until nothing does: a cancellation between two statements hits neither."""
    pool.shutdown(wait=False, cancel_futures=True)
    # A future that was cancelled before it began never counts as done.
    begun = [future for future in running if not future.cancelled()]
    while wait(begun, timeout=_CANCEL_AGAIN_SECONDS).not_done:
        for session in sessions:
            session.cancel()


def _measure_chunk(idle: SimpleQueue[Session], chunk: _Chunk) -> Fingerprint:
    session = idle.get()
    try:
        only = sql.SQL("ONLY {}").format(chunk.leaf)
        if chunk.first == 0 and chunk.last is None:
            return _measure(session, only, chunk.columns)
        return _measure(session, only, chunk.columns, (chunk.first, chunk.last))
    finally:
        idle.put(session)


def _measure(
    session: Session,
    source: sql.Composable,
    columns: Sequence[sql.Composable] | None = None,
    blocks: tuple[int, int | None] | None = None,
    hashed: sql.Composable | None = None,
) -> Fingerprint:
    """One statement of parallel-safe aggregates, so that a large table gets a parallel plan.

    A row's text is that of ROW(...): NULL is nothing, '' is "", and quoting keeps columns apart.
    """
    what = sql.SQL("source.*") if columns is None else sql.SQL(", ").join(columns)
    hash_ = hashed or sql.SQL('hashtextextended(ROW({})::text COLLATE "C", 0)').format(what)
    query = sql.SQL(
        "SELECT count(*) AS rows, COALESCE(sum(h), 0)::text AS sum, COALESCE(bit_xor(h), 0)::text AS xor"
        " FROM (SELECT {hash} AS h FROM {source} AS source{where}) AS hashed"
    ).format(hash=hash_, source=source, where=_range(blocks))
    row = session.row(query)
    return Fingerprint(**row) if row else Fingerprint()


def _range(blocks: tuple[int, int | None] | None) -> sql.Composable:
    if blocks is None:
        return sql.SQL("")
    first, last = blocks
    lower = sql.SQL(" WHERE source.ctid >= {}::tid").format(sql.Literal(f"({first},0)"))
    if last is None:
        return lower
    return lower + sql.SQL(" AND source.ctid < {}::tid").format(sql.Literal(f"({last},0)"))
