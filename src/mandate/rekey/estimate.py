"""What a change of keys will need: disk, WAL and time. Pure; `measuring` and `sampling` bring the figures.

Everything is in bytes and seconds. Each formula is stated in docs/how-to/change-keys.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MIB = 1 << 20

# Beside the row itself, in the WAL: record header, block reference, the row's own header.
_WAL_BYTES_PER_ROW = 30
# A row of the log: header, id, table, an array of one short key; and its entry in the primary key's index.
_LOG_BYTES_PER_WRITE = 120
# What a row takes beside its columns: tuple header and line pointer.
_ROW_OVERHEAD = 28
# Rows that one session catches up with in a second.
_CAUGHT_UP_PER_SECOND = 5000
# Reading the parents, writing a map and two indexes of it, against copying as many rows.
_MAP_TIMES = 3
# Shares of the time for hashing a table's rows: to prove a foreign key, and to look for references to no row.
_VALIDATION_SHARE = 0.3
_REFERENCES_SHARE = 0.5
# ANALYZE looks at no more rows of a table, as PostgreSQL is set unless somebody sets it otherwise.
_ANALYZED_ROWS = 30_000
_MARGIN_SHARE = 0.1
_LEAST_MARGIN = 16 * MIB
# Fewer rows than this say nothing about an index of many.
_TELLING_ROWS = 5000


@dataclass(frozen=True)
class IndexSize:
    """An index of an old table; `growth`: how much wider an entry becomes; `partial`: not of all rows."""

    name: str
    bytes: int
    tablespace: str | None = None
    growth: float = 1.0
    partial: bool = False


@dataclass(frozen=True)
class TableSize:
    """An old table as it is on disk. `growth`: how much wider a row becomes, as far as types tell."""

    table: str
    rows: int
    heap_bytes: int
    toast_bytes: int
    indexes: tuple[IndexSize, ...]
    tablespace: str | None = None
    growth: float = 1.0

    @property
    def index_bytes(self) -> int:
        return sum(index.bytes for index in self.indexes)


@dataclass(frozen=True)
class IndexSample:
    """An index built over a sample."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class TableSample:
    """What copying a part of a table came to: `share` of its blocks, read and written as a run does.

    Seconds: of the copy, of constraints, of statistics, of hashing the rows for their fingerprint.
    """

    share: float
    rows: int
    heap_bytes: int
    toast_bytes: int
    copy_seconds: float
    finish_seconds: float
    statistics_seconds: float
    fingerprint_seconds: float
    indexes: Mapping[str, IndexSample]


@dataclass(frozen=True)
class NewTableSize:
    """A new table as it will be, beside the old one."""

    table: str
    rows: int
    heap_bytes: int
    toast_bytes: int
    index_bytes: int
    new_heap_bytes: int
    new_toast_bytes: int
    new_indexes: Mapping[str, int]
    width_factor: float
    tablespace: str | None = None

    @property
    def new_index_bytes(self) -> int:
        return sum(self.new_indexes.values())

    @property
    def new_bytes(self) -> int:
        return self.new_heap_bytes + self.new_toast_bytes + self.new_index_bytes

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with the sums."""
        return {**asdict(self), "new_index_bytes": self.new_index_bytes, "new_bytes": self.new_bytes}


@dataclass(frozen=True)
class Part:
    """So many bytes in a tablespace (None: the database's own), and what for."""

    what: str
    bytes: int
    tablespace: str | None = None


@dataclass(frozen=True)
class Server:
    """Settings that decide about WAL and sorting."""

    wal_level: str = "replica"
    full_page_writes: bool = True
    page_images_of_hints: bool = True
    max_wal_bytes: int = 1 << 30
    wal_is_held: bool = False
    sort_memory_bytes: int = 64 * MIB
    temp_tablespace: str | None = None
    writes_per_second: float | None = None


@dataclass(frozen=True)
class PhaseTime:
    """A phase and how long it will take; `why` where that is not measured."""

    phase: str
    seconds: float
    why: str | None = None


@dataclass(frozen=True)
class Earlier:
    """An earlier run of the same change: seconds by phase, the rows it copied, when it began."""

    began: str
    rows: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Eta:
    """Time by phase. `source`: sample, earlier run, or none."""

    source: str
    phases: tuple[PhaseTime, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """All of it; None: not known."""
        return sum(phase.seconds for phase in self.phases) if self.phases else None


# -- size --------------------------------------------------------------------------------------------


def entry_bytes(widths: Iterable[float]) -> int:
    """An entry of a b-tree on the page: item pointer, header, columns, aligned to 8 bytes."""
    return 4 + 8 * math.ceil((8 + sum(widths)) / 8)


def row_bytes(widths: Iterable[float]) -> float:
    """A row of columns this wide in a table."""
    return _ROW_OVERHEAD + sum(widths)


def row_growth(old: Iterable[float], gone: Iterable[float], come: Iterable[float]) -> float:
    """How much wider a row becomes: `gone` of its columns' widths are replaced by `come`. Never below 1/4."""
    before = row_bytes(old)
    return max(0.25, (before - sum(gone) + sum(come)) / before)


def new_size(old: TableSize, sample: TableSample | None) -> NewTableSize:
    """The new table: the old one times what the sample measured, else times what the types say.

    A bare table is copied without gaps, so a sample of a bloated one says less than its size. An index is
    taken at the smaller of two figures: its present size times its entries' growth, and the sample's scaled
    up; that of a partial one or of few rows is not scaled.
    """
    if sample is None or not sample.share:
        heap, toast = old.heap_bytes * old.growth, float(old.toast_bytes)
        rows = old.rows
    else:
        heap, toast = sample.heap_bytes / sample.share, sample.toast_bytes / sample.share
        rows = old.rows if old.rows and sample.share < 1 else round(sample.rows / sample.share)
    return NewTableSize(
        old.table,
        rows,
        old.heap_bytes,
        old.toast_bytes,
        old.index_bytes,
        math.ceil(heap),
        math.ceil(toast),
        {index.name: _new_index(index, sample) for index in old.indexes},
        round(heap / old.heap_bytes, 3) if old.heap_bytes else 1.0,
        old.tablespace,
    )


def _new_index(index: IndexSize, sample: TableSample | None) -> int:
    grown = math.ceil(index.bytes * index.growth)
    built = None if sample is None else sample.indexes.get(index.name)
    if sample is None or built is None:
        return grown
    if sample.share >= 1:
        return built.bytes
    if index.partial or sample.rows < _TELLING_ROWS:
        return grown
    return min(grown, math.ceil(built.bytes / sample.share))


def parts(
    tables: Sequence[NewTableSize],
    old: Sequence[TableSize],
    extra: Sequence[Part],
    server: Server,
    jobs: int,
    seconds: float | None,
) -> list[Part]:
    """Everything new that a run puts on the server's disks at the same time, at its peak, without WAL."""
    found: dict[tuple[str, str | None], int] = {}
    places = {(t.table, index.name): index.tablespace for t in old for index in t.indexes}

    def add(what: str, tablespace: str | None, size: int) -> None:
        found[what, tablespace] = found.get((what, tablespace), 0) + size

    for table in tables:
        add("new tables", table.tablespace, table.new_heap_bytes + table.new_toast_bytes)
        for name, size in table.new_indexes.items():
            add("their indexes", places[table.table, name], size)
    for part in extra:
        add(part.what, part.tablespace, part.bytes)
    add("sorting for indexes", server.temp_tablespace, sort_bytes(tables, server, jobs))
    add("log of clients' writes", None, log_bytes(server, seconds))
    return [Part(what, size, tablespace) for (what, tablespace), size in found.items() if size]


def sort_bytes(tables: Sequence[NewTableSize], server: Server, jobs: int) -> int:
    """Temporary files of the largest builds, `jobs` at a time: those that do not fit their memory."""
    sizes = sorted((size for table in tables for size in table.new_indexes.values()), reverse=True)
    return sum(size for size in sizes[: max(1, jobs)] if size > server.sort_memory_bytes)


def log_bytes(server: Server, seconds: float | None) -> int:
    """What capture writes down until it is caught up: at the present rate of writes, for the whole time."""
    return math.ceil((server.writes_per_second or 0) * (seconds or 0) * _LOG_BYTES_PER_WRITE)


def wal_bytes(tables: Sequence[NewTableSize], server: Server) -> int:
    """WAL of the copy and the builds.

    Rows are logged one by one; the pages of an index are logged whole, not at all with wal_level=minimal.
    With checksums or wal_log_hints the first reader of a copied page logs it once more, whole.
    """
    rows = sum(t.new_heap_bytes + t.new_toast_bytes + t.rows * _WAL_BYTES_PER_ROW for t in tables)
    built = 0 if server.wal_level == "minimal" else sum(t.new_index_bytes for t in tables)
    hints = server.page_images_of_hints and server.full_page_writes
    return rows + built + (sum(t.new_heap_bytes for t in tables) if hints else 0)


def wal_part(wal: int, server: Server) -> Part:
    """WAL that is on disk at a time: max_wal_size keeps it small unless a slot or the archiver holds it."""
    return Part("WAL", wal if server.wal_is_held else min(wal, server.max_wal_bytes), "pg_wal")


def margin(needed: int) -> int:
    """What has to stay free beyond the need: a tenth of it, 16 MiB at least."""
    return max(_LEAST_MARGIN, math.ceil(needed * _MARGIN_SHARE))


# -- time --------------------------------------------------------------------------------------------


def eta_of_sample(
    new: Sequence[NewTableSize],
    samples: Mapping[str, TableSample],
    keys: int,
    references: Mapping[str, int],
    server: Server,
    jobs: int,
) -> Eta:
    """Scale what one session did in the sample; `jobs` sessions share it, and no index build is shared.

    `keys`: rows of parents whose keys need a map. `references`: foreign keys by child.
    """
    jobs = max(1, jobs)
    found = [(table, samples[table.table]) for table in new if table.table in samples]
    found = [(table, sample) for table, sample in found if sample.share]
    copies = sum(sample.copy_seconds / sample.share for _, sample in found)
    finishes = sum(
        sample.finish_seconds / sample.share + sample.statistics_seconds * _statistics_times(sample)
        for _, sample in found
    )
    prints = {table.table: sample.fingerprint_seconds / sample.share for table, sample in found}
    builds = [_build_seconds(built, sample) for _, sample in found for built in sample.indexes.values()]
    rows, seconds = sum(s.rows for _, s in found), sum(s.copy_seconds for _, s in found)
    proofs = sum(references.get(name, 0) * each * _VALIDATION_SHARE for name, each in prints.items())
    copy = copies / jobs
    build = max([sum(builds) / jobs, *builds]) + finishes / jobs
    caught = (server.writes_per_second or 0) * (copy + build) / _CAUGHT_UP_PER_SECOND
    mapped = _MAP_TIMES * keys * seconds / rows if rows else 0.0
    mapped += _REFERENCES_SHARE * sum(prints.values()) / jobs
    return Eta(
        "sample",
        (
            PhaseTime("map", mapped, "from the copy's and the verification's rate" if keys else None),
            PhaseTime("copy", copy),
            PhaseTime("build", build),
            PhaseTime("catch up", caught, "depends on what clients write"),
            PhaseTime("foreign keys", proofs / jobs, "from the verification's rate"),
            PhaseTime("verify", 2 * sum(prints.values()) / jobs),
        ),
    )


def _statistics_times(sample: TableSample) -> float:
    """How much longer ANALYZE takes for the whole table than for the sample."""
    return max(1.0, min(1 / sample.share, _ANALYZED_ROWS / max(1, sample.rows)))


def _build_seconds(built: IndexSample, sample: TableSample) -> float:
    """n log n."""
    rows = sample.rows / sample.share
    if sample.rows < 2 or sample.share >= 1:
        return built.seconds / sample.share
    return built.seconds / sample.share * math.log2(rows) / math.log2(sample.rows)


def eta_of_earlier(earlier: Earlier, rows: int) -> Eta:
    """As long as it took then, by rows. The cutover's attempts are not a matter of rows."""
    factor = rows / earlier.rows if earlier.rows else 1.0
    return Eta(
        "earlier run",
        tuple(
            PhaseTime(phase, seconds * (1.0 if phase == "cutover" else factor))
            for phase, seconds in earlier.seconds.items()
        ),
    )
