"""What a database holds that a restored backup of it does not: counted, and exported row by row.

Rows are told apart by the text of their keys. The server first compares 1024 groups of keys by
fingerprint; only groups that differ are read, in order and one row at a time.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote

from mandate.postgres import dump
from mandate.postgres.connection import Row, Session, sql
from mandate.progress import Reporter
from mandate.rekey.fingerprint import canonical

DIRECTORY = "written_since"
SUMMARY = "summary.json"

_TABLE_KEYS_SQL = (Path(__file__).parent / "sql" / "table_keys.sql").read_bytes()
_GROUPS = 1024

# Written by the migration itself, not by anybody's work.
_OF_THE_MIGRATION = frozenset({"mandate.identity_map", "mandate.migration_log"})

# Carried over, see tokens_kept.
_KEPT = frozenset({"mandate_access.tokens", "mandate_access.revocations"})

# Rows that somebody wrote; the others follow from what is recorded elsewhere, without anybody's doing.
_WRITTEN: Mapping[str, sql.SQL] = {
    "mandate.spec_events": sql.SQL("actor IS DISTINCT FROM 'recorded as active'"),
}

# Append-only: a row with the same key is the same row, however the migration has changed its columns.
_APPEND_ONLY = frozenset(
    f"mandate.{table}"
    for table in (
        "organizations",
        "domains",
        "scopes",
        "policy_snapshots",
        "decision_events",
        "verdict_events",
        "audit_timeline_entries",
        "mandate_specs",
    )
)

# Keys of version 8 as the UUIDs they were in version 7; what is new has none and stays what it is.
_OLD_KEYS: Mapping[tuple[str, str], sql.SQL] = {
    ("mandate.domains", "domain_id"): sql.SQL(
        "COALESCE((SELECT m.old_key FROM mandate.identity_map AS m WHERE m.kind = 'domain'"
        " AND m.organization_id = source.organization_id AND m.new_key = source.domain LIMIT 1),"
        " 'new:' || source.organization_id || ':' || source.domain)"
    ),
    ("mandate.scopes", "scope_id"): sql.SQL(
        "COALESCE((SELECT m.old_key FROM mandate.identity_map AS m WHERE m.kind = 'scope'"
        " AND m.new_key = source.scope_id::text LIMIT 1), 'new:' || source.scope_id)"
    ),
}


@dataclass(frozen=True)
class Loss:
    """What a rollback takes away and brings back, as rows by table; only tables that have any.

    `rows` are in the database and not in the backup: exported to `export`, one JSON document a line.
    `returning` are in the backup and no longer in the database.
    """

    rows: Mapping[str, int]
    returning: Mapping[str, int]
    export: Path

    @property
    def total(self) -> int:
        """Rows that are no longer in the database after the rollback."""
        return sum(self.rows.values())


def export(current: Session, restored: Session, directory: Path, reporter: Reporter) -> Loss:
    """Compare two databases and export what only `current` has into `directory`.

    Each is compared in the transaction that its session is in. Raises DatabaseError, OSError.
    """
    place = directory / DIRECTORY
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    with ExitStack() as stack:
        for session in (current, restored):
            stack.enter_context(canonical(session))
        pairs = _pairs(current, restored)
        rows: dict[str, int] = {}
        returning: dict[str, int] = {}
        with reporter.task("what was written since", total=len(pairs), unit="tables") as task:
            for done, pair in enumerate(pairs):
                task.update(done, note=pair.name)
                rows[pair.name], returning[pair.name] = pair.compare(current, restored, place)
    loss = Loss(_some(rows), _some(returning), place)
    (place / SUMMARY).write_text(json.dumps(asdict(loss), default=str, indent=1) + "\n", "utf-8")
    dump.sync(place)
    return loss


def load(directory: Path) -> Loss | None:
    """What an earlier `export` into this directory found."""
    summary = directory / DIRECTORY / SUMMARY
    if not summary.is_file():
        return None
    known = json.loads(summary.read_text("utf-8"))
    return Loss(known["rows"], known["returning"], Path(known["export"]))


def lock(session: Session) -> None:
    """Let nobody write to any table until the session's transaction ends. Raises LockNotAvailable."""
    session.execute("SELECT set_config('lock_timeout', '5s', true)")
    for row in session.rows(_TABLE_KEYS_SQL):
        name = sql.Identifier(row["schema"], row["relation"])
        session.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(name))


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {table: count for table, count in counts.items() if count}


@dataclass(frozen=True)
class _Side:
    """A table on one side: where its rows come from, and the text that identifies a row."""

    source: sql.Composable
    key: sql.Composable

    def groups(self, session: Session) -> dict[int, Row]:
        """Fingerprint of the keys of each group."""
        query = sql.SQL(
            "SELECT (h & {last})::int AS number, count(*) AS rows, sum(h)::text AS sum, bit_xor(h) AS xor"
            " FROM (SELECT {hash} AS h FROM {source} AS source) AS hashed GROUP BY 1"
        ).format(last=sql.Literal(_GROUPS - 1), hash=self._hash, source=self.source)
        return {row.pop("number"): row for row in session.rows(query)}

    def rows(self, groups: Sequence[int], *, document: bool) -> sql.Composable:
        """Rows of these groups as (hash, key, document), in the order of hash and key."""
        return sql.SQL(
            "SELECT h, k, doc FROM (SELECT {hash} AS h, {key} AS k, {document} AS doc"
            " FROM {source} AS source) AS hashed WHERE (h & {last}) = ANY ({groups}) ORDER BY h, k"
        ).format(
            hash=self._hash,
            key=self._text,
            document=sql.SQL("to_jsonb(source)::text" if document else "NULL::text"),
            source=self.source,
            last=sql.Literal(_GROUPS - 1),
            groups=sql.Literal(list(groups)),
        )

    @property
    def _text(self) -> sql.Composable:
        return sql.SQL('({})::text COLLATE "C"').format(self.key)

    @property
    def _hash(self) -> sql.Composable:
        return sql.SQL("hashtextextended({}, 0)").format(self._text)


@dataclass(frozen=True)
class _Pair:
    """A table in the database and in the restored backup; None where it is not."""

    name: str
    current: _Side | None
    restored: _Side | None

    def compare(self, current: Session, restored: Session, place: Path) -> tuple[int, int]:
        """Rows only in the database, which are exported, and rows only in the backup."""
        groups = self._differing(current, restored)
        if not groups:
            return 0, 0
        with ExitStack() as stack:
            ours = _stream(stack, current, self.current, groups, document=True)
            theirs = _stream(stack, restored, self.restored, groups, document=False)
            file = _LazyFile(place / f"{quote(self.name, safe='.')}.jsonl.gz", stack)
            return _merge(ours, theirs, file)

    def _differing(self, current: Session, restored: Session) -> list[int]:
        ours = self.current.groups(current) if self.current else {}
        theirs = self.restored.groups(restored) if self.restored else {}
        return sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))


def _stream(
    stack: ExitStack, session: Session, side: _Side | None, groups: Sequence[int], *, document: bool
) -> Iterator[Row]:
    if side is None:
        return iter(())
    query = cast("sql.Composed", side.rows(groups, document=document))
    return stack.enter_context(session.stream(query))


def _merge(ours: Iterator[Row], theirs: Iterator[Row], file: _LazyFile) -> tuple[int, int]:
    """Both in order: what only ours has is written, what only theirs has is counted."""
    since = returning = 0
    here, there = next(ours, None), next(theirs, None)
    while here is not None or there is not None:
        if there is None or (here is not None and _key(here) < _key(there)):
            file.write(cast("Row", here)["doc"])
            since += 1
            here = next(ours, None)
        elif here is None or _key(there) < _key(here):
            returning += 1
            there = next(theirs, None)
        else:
            here, there = next(ours, None), next(theirs, None)
    return since, returning


def _key(row: Row) -> tuple[int, str]:
    return row["h"], row["k"]


class _LazyFile:
    """A gzipped text file that comes into being with its first line, readable by its owner only."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._file: gzip.GzipFile | None = None

    def write(self, line: str) -> None:
        if self._file is None:
            self._path.touch(mode=0o600)
            self._file = self._stack.enter_context(gzip.GzipFile(self._path, "wb"))
        self._file.write(line.encode() + b"\n")


def _pairs(current: Session, restored: Session) -> list[_Pair]:
    ours = {row["name"]: row for row in current.rows(_TABLE_KEYS_SQL)}
    theirs = {row["name"]: row for row in restored.rows(_TABLE_KEYS_SQL)}
    names = sorted((ours.keys() | theirs.keys()) - _OF_THE_MIGRATION - _KEPT)
    return [_pair(name, ours.get(name), theirs.get(name)) for name in names]


def _pair(name: str, ours: Row | None, theirs: Row | None) -> _Pair:
    if ours is None or theirs is None:
        sides = [_side(row, row["columns"]) if row else None for row in (ours, theirs)]
        return _Pair(name, *sides)
    columns = _identity(name, ours, theirs)
    mapped = [_OLD_KEYS.get((name, column)) if _differs(column, ours, theirs) else None for column in columns]
    return _Pair(name, _side(ours, columns, mapped), _side(theirs, columns))


def _identity(name: str, ours: Row, theirs: Row) -> list[str]:
    """The columns by which a row is the same row, as the restored backup names them."""
    key: list[str] = theirs["primary_key"]
    if name in _APPEND_ONLY and key and all(_comparable(name, column, ours, theirs) for column in key):
        return key
    # Anything else may have been updated: the whole row, or as much of it as both have.
    return [column for column in theirs["columns"] if not _differs(column, ours, theirs)]


def _comparable(name: str, column: str, ours: Row, theirs: Row) -> bool:
    return not _differs(column, ours, theirs) or (name, column) in _OLD_KEYS


def _differs(column: str, ours: Row, theirs: Row) -> bool:
    return _type(column, ours) != _type(column, theirs)


def _type(column: str, table: Row) -> str | None:
    return dict(zip(table["columns"], table["types"], strict=True)).get(column)


def _side(table: Row, columns: Sequence[str], mapped: Sequence[sql.Composable | None] | None = None) -> _Side:
    name = sql.Identifier(table["schema"], table["relation"])
    parts = [
        expression or sql.SQL("source.{}").format(sql.Identifier(column))
        for column, expression in zip(columns, mapped or [None] * len(columns), strict=True)
    ]
    source = name if table["partitioned"] else sql.SQL("ONLY {}").format(name)
    if (written := _WRITTEN.get(table["name"])) is not None:
        source = sql.SQL("(SELECT * FROM {} WHERE {})").format(source, written)
    return _Side(
        source,
        sql.SQL("ROW({})").format(sql.SQL(", ").join(parts)),
    )
