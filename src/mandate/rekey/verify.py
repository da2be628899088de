"""Proves, before a swap, that two tables hold the same rows: the converted source and the destination."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice

from mandate.errors import VerificationFailed
from mandate.postgres.connection import Session, Verbatim, sql
from mandate.progress import Reporter
from mandate.rekey import catch_up, crew, json_keys, locking, references, row_hash, yielding
from mandate.rekey.direction import Direction, equal, qualified, settle
from mandate.rekey.fingerprint import Fingerprint, canonical, fingerprint_hashed, one_snapshot
from mandate.rekey.model import Graph, NewTable

Connect = Callable[[], Session]

# 16 MiB of table: no session is long at work when the others have nothing left to do.
_CHUNK_BLOCKS = 2048
_BUCKETS = 1024
_BUCKETS_LOOKED_INTO = 16
_SHOWN = 20


@dataclass(frozen=True)
class Proof:
    """One table: rows compared, fingerprints (rows:sum:xor) of both sides, and rows that wait in the log."""

    table: str
    rows: int
    source: str
    destination: str
    equal: bool
    pending: int = 0


def run(
    connect: Connect,
    graph: Graph,
    direction: Direction,
    jobs: int,
    reporter: Reporter,
    watch: yielding.Watch | None = None,
) -> list[Proof]:
    """Compare every table, each in one snapshot, with `jobs` sessions; rows whose key is logged wait.

    Generated columns are left out: they follow from the others. Raises VerificationFailed naming tables and
    up to 20 rows of each.
    """
    proofs: list[Proof] = []
    wrong: list[str] = []
    with ExitStack() as stack:
        sessions = [stack.enter_context(connect()) for _ in range(max(1, jobs))]
        row_hash.make(sessions[0], graph.spec.work_schema)
        total = 2 * sum(max(1, table.old.blocks) for table in graph.tables)
        task = stack.enter_context(reporter.task("verify", total=total, unit="blocks"))
        done = 0.0
        for table in graph.tables:
            task.update(done, note=table.old.name)
            once = partial(_compare, sessions, graph, direction, table)
            proof, rows = yielding.retried(watch, sessions, once)
            proofs.append(proof)
            wrong += rows
            done += 2 * max(1, table.old.blocks)
        task.update(total)
    if not all(proof.equal for proof in proofs):
        raise VerificationFailed(
            "old and new rows differ:\n" + "\n".join(f"  {line}" for line in wrong),
            hint="nothing was swapped; `abort` leaves no object behind",
            proofs=[vars(proof) for proof in proofs],
            rows=wrong,
        )
    return proofs


def _compare(
    sessions: Sequence[Session], graph: Graph, direction: Direction, table: NewTable
) -> tuple[Proof, list[str]]:
    """A table that was truncated has to be caught up first: nothing of it can be compared.

    Who truncates it again and again would always be back before the comparison, were there a moment between
    the two.
    """
    source = direction.source(table)
    with _without_truncation(sessions[0], source), one_snapshot(sessions[0], sessions[1:]):
        for session in sessions:
            settle(session)
        pending, whole = _pending(sessions[0], graph, direction, table)
        if not whole:
            return _compared(sessions, _Sides(graph, direction, table, pending))
    compared = partial(_compared, sessions[:1], _Sides(graph, direction, table, pending=0))
    return catch_up.caught_up(sessions[0], graph, direction, table, compared)


@contextmanager
def _without_truncation(session: Session, table: sql.Identifier) -> Iterator[None]:
    """A transaction in which nobody truncates the table."""
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        locking.keep_from_truncation(session, table)
        yield


def _pending(session: Session, graph: Graph, direction: Direction, table: NewTable) -> tuple[int, bool]:
    row = session.row(
        sql.SQL(
            "SELECT count(*), coalesce(bool_or(key IS NULL), false) AS whole FROM {} WHERE tab = %s"
        ).format(direction.log(graph)),
        (table.old.oid,),
    )
    assert row is not None
    return row["count"], row["whole"]


def _compared(sessions: Sequence[Session], sides: _Sides) -> tuple[Proof, list[str]]:
    both = [sides.source_parts(sessions[0]), sides.destination_parts(sessions[0])]
    for stored in (sides.graph.spec.work_schema, None):
        hashed = row_hash.expression(sessions[0], sides.columns, stored)
        source, destination = _measured(sessions, both, hashed)
        if source == destination or source.rows != destination.rows:
            break
    proof = Proof(
        str(sides.table),
        destination.rows,
        str(source),
        str(destination),
        source == destination,
        sides.pending,
    )
    return proof, [] if proof.equal else list(_differences(sessions[0], sides))


def _measured(
    sessions: Sequence[Session], sides: Sequence[Sequence[sql.Composed]], hashed: sql.Composable
) -> list[Fingerprint]:
    """The fingerprint of each side's queries together, as many at a time as there are sessions."""
    works = [
        partial(fingerprint_hashed, query=query, hashed=hashed) for queries in sides for query in queries
    ]
    measured = iter(crew.spread(sessions, works))
    return [sum(islice(measured, len(queries)), Fingerprint()) for queries in sides]


@dataclass(frozen=True)
class _Sides:
    """The two queries that must return the same rows; `pending`: log rows of the table."""

    graph: Graph
    direction: Direction
    table: NewTable
    pending: int

    @property
    def columns(self) -> dict[str, str]:
        """The destination's columns that are compared, with their types."""
        lost = frozenset() if self.direction.forward else references.overwritten(self.table)
        types = self.direction.destination_types(self.table)
        return {name: type_ for name, type_ in types.items() if name not in lost}

    def source(self, blocks: sql.Composable) -> sql.Composed:
        """The source's rows as the destination's, in its types. `blocks`: a condition on s."""
        name = self.direction.source(self.table)
        rows = sql.SQL("(SELECT s.* FROM ONLY {} AS s WHERE {}{})").format(name, blocks, self._not_pending())
        typed = sql.SQL(", ").join(
            sql.SQL("{}::{} AS {}").format(
                self._compared_value(sql.Identifier("r"), name), Verbatim(type_), sql.Identifier(name)
            )
            for name, type_ in self.columns.items()
        )
        return sql.SQL("SELECT {} FROM ({}) AS r").format(
            typed, self.direction.rows(self.graph, self.table, rows)
        )

    def destination(self, blocks: sql.Composable) -> sql.Composed:
        """The destination's rows. `blocks`: a condition on s."""
        return sql.SQL("SELECT {} FROM ONLY {} AS s WHERE {}{}").format(
            sql.SQL(", ").join(
                sql.SQL("{} AS {}").format(
                    self._compared_value(sql.Identifier("s"), name), sql.Identifier(name)
                )
                for name in self.columns
            ),
            self.direction.destination(self.graph, self.table),
            blocks,
            self._not_pending_there(),
        )

    def _compared_value(self, row: sql.Identifier, name: str) -> sql.Composable:
        """Going back, what stands in JSON is compared as the new table has it: one key had several texts."""
        value = sql.SQL("{}.{}").format(row, sql.Identifier(name))
        if self.direction.forward:
            return value
        return json_keys.forward(self.graph, self.table, name, row, value)

    def _not_pending(self) -> sql.Composable:
        if not self.pending:
            return sql.SQL("")
        key = self.direction.source_key(self.table)
        return sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS k WHERE {})").format(
            self.direction.keys(self.graph, self.table),
            equal(sql.Identifier("k"), key, sql.Identifier("s"), key),
        )

    def _not_pending_there(self) -> sql.Composable:
        if not self.pending:
            return sql.SQL("")
        key = self.direction.destination_key(self.table)
        keys = self.direction.keys(self.graph, self.table)
        return sql.SQL(" AND NOT EXISTS (SELECT FROM ({}) AS t WHERE {})").format(
            self.direction.destination_keys(self.graph, self.table, keys),
            equal(sql.Identifier("t"), key, sql.Identifier("s"), key),
        )

    def source_parts(self, session: Session) -> list[sql.Composed]:
        """`source` in ranges of blocks."""
        return [self.source(part) for part in _parts(session, self.direction.source(self.table))]

    def destination_parts(self, session: Session) -> list[sql.Composed]:
        """`destination` in ranges of blocks."""
        table = self.direction.destination(self.graph, self.table)
        return [self.destination(part) for part in _parts(session, table)]


def _parts(session: Session, table: sql.Identifier) -> Iterator[sql.Composable]:
    """Conditions on s.ctid that together are true of every row once."""
    blocks: int = session.value(
        "SELECT pg_catalog.pg_relation_size(pg_catalog.to_regclass(%s))"
        " / pg_catalog.current_setting('block_size')::bigint",
        (table.as_string(session.connection),),
    )
    starts = range(0, max(1, blocks), _CHUNK_BLOCKS)
    for first in starts:
        lower = sql.SQL("s.ctid >= {}::tid").format(sql.Literal(f"({first},0)"))
        upper = sql.SQL(" AND s.ctid < {}::tid").format(sql.Literal(f"({first + _CHUNK_BLOCKS},0)"))
        yield lower if first == starts[-1] else lower + upper


# -- which rows ------------------------------------------------------------------------------------------


def _differences(session: Session, sides: _Sides) -> Iterator[str]:
    """Lines that name the rows: hash buckets narrow down, then those few are compared row by row."""
    every = sql.SQL("true")
    source, destination = _hashed(sides, sides.source(every)), _hashed(sides, sides.destination(every))
    with canonical(session):
        there = _buckets(session, source), _buckets(session, destination)
        differing = [n for n in range(_BUCKETS) if there[0].get(n) != there[1].get(n)]
        rows = session.rows(
            sql.SQL(
                "SELECT coalesce(a.key, b.key) AS key, a.key IS NULL AS extra, b.key IS NULL AS missing"
                " FROM (SELECT * FROM ({}) AS h WHERE h.bucket = ANY ({buckets})) AS a"
                " FULL JOIN (SELECT * FROM ({}) AS h WHERE h.bucket = ANY ({buckets})) AS b ON a.key = b.key"
                " WHERE a.whole IS DISTINCT FROM b.whole ORDER BY 1 LIMIT {shown}"
            ).format(
                source,
                destination,
                buckets=sql.Literal(differing[:_BUCKETS_LOOKED_INTO]),
                shown=sql.Literal(_SHOWN),
            )
        )
    names = ", ".join(sides.direction.destination_key(sides.table))
    for row in rows:
        what = "is missing" if row["missing"] else "should not be there" if row["extra"] else "differs"
        yield f"{sides.table}: the row with {names} = {row['key']} {what}"
    if not rows:
        yield f"{sides.table}: a row is there more than once"


def _hashed(sides: _Sides, query: sql.Composed) -> sql.Composed:
    key = sides.direction.destination_key(sides.table)
    return sql.SQL(
        "SELECT pg_catalog.hashtextextended(t.key, 0) & {last} AS bucket, t.key, t.whole,"
        " pg_catalog.hashtextextended(t.whole, 0) AS hash"
        ' FROM (SELECT ROW({key})::text COLLATE "C" AS key, ROW(q.*)::text COLLATE "C" AS whole'
        " FROM ({query}) AS q) AS t"
    ).format(last=sql.Literal(_BUCKETS - 1), key=qualified(sql.Identifier("q"), key), query=query)


def _buckets(session: Session, hashed: sql.Composed) -> dict[int, tuple[int, str]]:
    rows = session.rows(
        sql.SQL("SELECT h.bucket, count(*), sum(h.hash)::text AS sum FROM ({}) AS h GROUP BY 1").format(
            hashed
        )
    )
    return {row["bucket"]: (row["count"], row["sum"]) for row in rows}
