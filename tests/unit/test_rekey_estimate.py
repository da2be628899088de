"""The arithmetic of a plan: sizes, WAL, margins, time, and which blocks a sample takes."""

from __future__ import annotations

import itertools

import pytest

from mandate.rekey import estimate, forecast, sampling
from mandate.rekey.estimate import (
    Earlier,
    IndexSample,
    IndexSize,
    NewTableSize,
    Part,
    Server,
    TableSample,
    TableSize,
)

MIB = estimate.MIB


def old(**changes: object) -> TableSize:
    values: dict[str, object] = {
        "table": "s.t",
        "rows": 100_000,
        "heap_bytes": 100 * MIB,
        "toast_bytes": 10 * MIB,
        "indexes": (IndexSize("t_pkey", 20 * MIB), IndexSize("t_some", 4 * MIB, partial=True)),
    }
    return TableSize(**{**values, **changes})  # type: ignore[arg-type]


def sample(**changes: object) -> TableSample:
    values: dict[str, object] = {
        "share": 0.1,
        "rows": 10_000,
        "heap_bytes": 12 * MIB,
        "toast_bytes": MIB,
        "copy_seconds": 0.5,
        "finish_seconds": 0.1,
        "statistics_seconds": 0.0,
        "fingerprint_seconds": 0.2,
        "indexes": {"t_pkey": IndexSample(MIB, 0.3), "t_some": IndexSample(8192, 0.0)},
    }
    return TableSample(**{**values, **changes})  # type: ignore[arg-type]


def new(**changes: object) -> NewTableSize:
    values: dict[str, object] = {
        "table": "s.t",
        "rows": 1000,
        "heap_bytes": 0,
        "toast_bytes": 0,
        "index_bytes": 0,
        "new_heap_bytes": 100 * MIB,
        "new_toast_bytes": 0,
        "new_indexes": {"a": 200 * MIB, "b": 70 * MIB, "c": MIB},
        "width_factor": 1.0,
    }
    return NewTableSize(**{**values, **changes})  # type: ignore[arg-type]


def test_the_sample_decides_about_heap_and_toast_and_may_only_lower_an_index() -> None:
    made = estimate.new_size(old(), sample())
    assert made.new_heap_bytes == 120 * MIB
    assert made.new_toast_bytes == 10 * MIB
    assert made.width_factor == 1.2
    assert made.new_indexes == {"t_pkey": 10 * MIB, "t_some": 4 * MIB}
    larger = sample(indexes={"t_pkey": IndexSample(9 * MIB, 1.0)})
    assert estimate.new_size(old(), larger).new_indexes["t_pkey"] == 20 * MIB


def test_few_rows_say_nothing_about_an_index_and_a_whole_table_says_all() -> None:
    few = sample(rows=100)
    assert estimate.new_size(old(), few).new_indexes["t_pkey"] == 20 * MIB
    whole = estimate.new_size(old(rows=0), sample(share=1.0, rows=77))
    assert whole.new_indexes == {"t_pkey": MIB, "t_some": 8192}
    assert whole.rows == 77


def test_without_a_sample_the_types_decide() -> None:
    grown = old(growth=1.5, indexes=(IndexSize("t_pkey", 20 * MIB, growth=2.0),))
    made = estimate.new_size(grown, None)
    assert made.new_heap_bytes == 150 * MIB
    assert made.new_indexes == {"t_pkey": 40 * MIB}


def test_an_empty_table_needs_nothing_and_divides_by_nothing() -> None:
    empty = old(rows=0, heap_bytes=0, toast_bytes=0, indexes=())
    nothing = sample(share=0.0, rows=0, heap_bytes=0, toast_bytes=0, indexes={})
    assert estimate.new_size(empty, nothing).new_bytes == 0
    made = estimate.eta_of_sample([], {}, 0, {}, Server(), 1)
    assert made.seconds == 0
    assert estimate.eta_of_sample([new(table="s.t")], {"s.t": nothing}, 5, {}, Server(), 0).seconds == 0


def test_widths() -> None:
    assert estimate.entry_bytes([4]) == estimate.entry_bytes([8]) == 20
    assert estimate.entry_bytes([36]) == 52
    assert estimate.row_growth([4, 4], [4], [8]) == pytest.approx(40 / 36)
    assert estimate.row_growth([4000], [4000], [1]) == 0.25


def test_sorting_counts_the_largest_builds_at_a_time_that_do_not_fit_in_memory() -> None:
    assert estimate.sort_bytes([new()], Server(), 1) == 200 * MIB
    assert estimate.sort_bytes([new()], Server(), 8) == 270 * MIB
    assert estimate.sort_bytes([new()], Server(sort_memory_bytes=1 << 30), 8) == 0


def test_wal_follows_the_settings() -> None:
    plain = Server(page_images_of_hints=False)
    rows = 100 * MIB + 1000 * 30
    assert estimate.wal_bytes([new()], plain) == rows + 271 * MIB
    assert estimate.wal_bytes([new()], Server(wal_level="minimal", page_images_of_hints=False)) == rows
    assert estimate.wal_bytes([new()], Server()) == rows + 371 * MIB
    assert estimate.wal_bytes([new()], Server(full_page_writes=False)) == rows + 271 * MIB
    assert estimate.wal_part(5 << 30, Server()).bytes == 1 << 30
    assert estimate.wal_part(5 << 30, Server(wal_is_held=True)).bytes == 5 << 30


def test_parts_are_kept_apart_by_tablespace() -> None:
    sized = old(tablespace="fast", indexes=(IndexSize("i", 3 * MIB, "slow"),))
    made = [estimate.new_size(sized, None)]
    extra = [Part("maps of keys", MIB)]
    writing = Server(writes_per_second=100)
    found = estimate.parts(made, [sized], extra, writing, 1, 10.0)
    assert found == [
        Part("new tables", 110 * MIB, "fast"),
        Part("their indexes", 3 * MIB, "slow"),
        Part("maps of keys", MIB),
        Part("log of clients' writes", 100 * 10 * 120),
    ]


def test_what_was_written_already_is_not_needed_again() -> None:
    parts = [
        Part("new tables", 100),
        Part("their indexes", 50),
        Part("x", 10, "fast"),
        Part("WAL", 7, "pg_wal"),
    ]
    left = forecast.less(parts, {None: 120, "pg_wal": 7})
    assert [part.bytes for part in left] == [0, 30, 10, 7]


def test_the_margin_is_a_tenth_and_never_nothing() -> None:
    assert estimate.margin(0) == 16 * MIB
    assert estimate.margin(1000 * MIB) == 100 * MIB


def test_a_place_misses_what_is_needed_and_the_margin() -> None:
    place = forecast.Place(("pg_default",), "/data", 100, 10, 90)
    assert place.missing == 20
    assert forecast.Place(("pg_default",), "/data", 100, 10, 110).missing == 0
    assert forecast.Place(("pg_default",), None, 100, 10, None, "remote").missing == 0


def test_jobs_share_the_copy_but_no_index_build() -> None:
    table = new(table="s.t")
    indexes = {"big": IndexSample(MIB, 1.0), "small": IndexSample(MIB, 0.1)}
    taken = {"s.t": sample(share=1.0, indexes=indexes, finish_seconds=0.0)}
    one, four = (
        {p.phase: p.seconds for p in estimate.eta_of_sample([table], taken, 0, {}, Server(), jobs).phases}
        for jobs in (1, 4)
    )
    assert four["copy"] == one["copy"] / 4
    assert one["build"] == pytest.approx(1.1)
    assert four["build"] == pytest.approx(1.0)


def test_statistics_take_no_longer_for_a_larger_table_than_for_the_rows_that_analyze_reads() -> None:
    def build(**changes: object) -> float:
        taken = {"s.t": sample(finish_seconds=0.0, statistics_seconds=0.5, indexes={}, **changes)}
        phases = estimate.eta_of_sample([new(table="s.t")], taken, 0, {}, Server(), 1).phases
        return {each.phase: each.seconds for each in phases}["build"]

    assert build(share=0.001, rows=40_000) == 0.5
    assert build(share=0.001, rows=10_000) == pytest.approx(1.5)
    assert build(share=0.5, rows=10_000) == pytest.approx(1.0)


def test_an_earlier_run_is_scaled_by_rows() -> None:
    earlier = Earlier("2026-01-02 03:04", 100, {"copy": 10.0, "cutover": 0.5})
    assert estimate.eta_of_earlier(earlier, 300).seconds == 30.5
    assert estimate.eta_of_earlier(Earlier("then", 0, {"copy": 1.0}), 300).seconds == 1.0


@pytest.mark.parametrize("blocks", [0, 1, 15, 16, 17, 1000, 4099])
def test_the_pieces_of_a_sample_are_the_table_once(blocks: int) -> None:
    found = sorted(sampling.pieces(blocks))
    assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])][: len(found)]
    assert (found[-1][1] if found else 0) == blocks


def test_a_short_sample_of_a_huge_table_is_spread_over_it() -> None:
    first = list(itertools.islice(sampling.pieces(10**9), 8))
    assert [piece[0] for piece in first] == [10**9 * place // 8 for place in range(8)]
    assert sum(last - first for first, last in first) == 8 * 16
