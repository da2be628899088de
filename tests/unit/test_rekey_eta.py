"""The ETA of a key change comes closer to the truth the longer it runs, on recorded runs and on made ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mandate.rekey import eta, journal
from mandate.rekey.eta import Seen

# Recorded on tables of 245 MiB with 200 MiB of indexes, beside writers, on a machine that had more to do:
# seconds since the command began, phase, part of it that was done.
TRACES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "rekey_traces.json").read_text())
MIB = 1 << 20
EXPECTED = eta.weights(245 * MIB, 200 * MIB)
LONG = eta.weights(2450 * MIB, 2000 * MIB)


@dataclass(frozen=True)
class Shown:
    """An ETA at a moment, what it should have been, and how long after the one before."""

    at: float
    left: float
    truth: float
    elapsed: float


def replay(rows: list[Any], end: float, expected: dict[str, float]) -> Iterator[Shown]:
    """What `status` would have shown."""
    took: dict[str, float] = {}
    began: dict[str, float] = {}
    shown: float | None = None
    before = float(rows[0][0])
    for at, phase, part in rows:
        if phase not in began:
            for other, start in began.items():
                took.setdefault(other, at - start)
            began[phase] = at
        seen = Seen(dict(took), phase, at - began[phase], part)
        shown = eta.smoothed(shown, at - before, eta.left(expected, seen))
        yield Shown(at, shown, end - at, at - before)
        before = at


def error(points: list[Shown]) -> float:
    return sum(abs(point.left - point.truth) for point in points) / len(points)


@pytest.mark.parametrize("name", sorted(TRACES))
@pytest.mark.parametrize("scale", [1.0, 0.2, 5.0], ids=["weights as they are", "too small", "too large"])
def test_on_recorded_runs_the_error_shrinks(name: str, scale: float) -> None:
    expected = {phase: scale * seconds for phase, seconds in EXPECTED.items()}
    points = list(replay(TRACES[name]["rows"], TRACES[name]["seconds"], expected))
    quarter = len(points) // 4
    whole = TRACES[name]["seconds"]
    first, last = points[:quarter], points[-quarter:]
    assert error(last) < max(error(first), 0.1 * whole)
    assert error(last) < 0.15 * whole
    assert abs(points[-1].left - points[-1].truth) < 0.1 * whole


@pytest.mark.parametrize("name", sorted(TRACES))
def test_on_recorded_runs_it_never_jumps(name: str) -> None:
    whole = TRACES[name]["seconds"]
    points = list(replay(TRACES[name]["rows"], whole, EXPECTED))
    for before, after in pairwise(points):
        by_the_clock = max(0.0, before.left - after.elapsed)
        assert abs(after.left - by_the_clock) < 0.15 * whole * max(1.0, after.elapsed)


# Of two phases one may take four times as long beside the other as the weights say.
speeds = st.lists(st.floats(0.5, 2), min_size=len(journal.PHASES), max_size=len(journal.PHASES))


def steady(factors: list[float], step: float) -> tuple[list[Any], float]:
    """A run whose phases take so many times as long as expected, each at one pace."""
    rows: list[Any] = []
    at = 0.0
    for (phase, seconds), factor in zip(LONG.items(), factors, strict=True):
        takes, spent = seconds * factor, 0.0
        while spent < takes:
            rows.append((at + spent, phase, spent / takes))
            spent += step
        at += takes
    return rows, at


@settings(deadline=None, max_examples=50)
@given(speeds, st.floats(0.2, 5))
def test_whatever_the_phases_take_it_ends_close_to_the_truth(factors: list[float], pace: float) -> None:
    rows, end = steady([pace * factor for factor in factors], 1.0)
    points = list(replay(rows, end, LONG))
    assert all(point.left >= 0 for point in points)
    assert error([point for point in points if point.truth < 0.1 * end]) < 0.2 * end
    assert abs(points[-1].left - points[-1].truth) < max(2.5, 0.2 * end)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.2, 5))
def test_a_uniform_pace_is_learned(factor: float) -> None:
    rows, end = steady([factor] * len(journal.PHASES), 1.0)
    half = [point for point in replay(rows, end, LONG) if point.at > end / 2]
    assert error(half) < 0.25 * end + 1


seen = st.builds(
    Seen,
    took=st.dictionaries(st.sampled_from(journal.PHASES), st.floats(0, 1e6)),
    phase=st.sampled_from(journal.PHASES),
    seconds=st.floats(0, 1e6),
    part=st.none() | st.floats(0, 1),
)


@given(seen, st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_it_is_never_negative_nor_unbounded(now: Seen, tables: int, indexes: int) -> None:
    expected = eta.weights(tables, indexes)
    assert 0 <= eta.left(expected, now) < float("inf")
    assert 0 <= eta.percent(expected, now) <= 100


@given(st.floats(0, 1e6), st.floats(0, 100), st.floats(0, 1e6))
def test_a_correction_never_goes_beyond_what_is_right(before: float, elapsed: float, now: float) -> None:
    low, high = sorted((max(0.0, before - elapsed), now))
    assert low - 1e-6 <= eta.smoothed(before, elapsed, now) <= high + 1e-6


def test_every_phase_has_a_weight() -> None:
    assert tuple(EXPECTED) == journal.PHASES


def test_percent_follows_the_weights() -> None:
    done = dict.fromkeys(journal.PHASES, 1.0)
    assert eta.percent(EXPECTED, Seen(done, "cutover", 1.0)) == 100
    assert eta.percent(EXPECTED, Seen({}, "map", 0.0)) == 0
