"""How long a change still takes: weights of phases from bytes, corrected by how fast it really is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

_MIB = 1 << 20
# Seconds of a phase on a slow machine: fixed, and for each MiB of tables and of indexes. Only their ratios
# matter once a phase has run.
_COSTS: Mapping[str, tuple[float, float, float]] = {
    "map": (0.2, 0.006, 0),
    "shadow": (0.2, 0, 0),
    "capture": (0.2, 0, 0),
    "copy": (0.2, 0.02, 0),
    "build": (0.3, 0.005, 0.025),
    "catch up": (0.5, 0.001, 0),
    "foreign keys": (0.3, 0.006, 0),
    "verify": (0.2, 0.03, 0),
    "cutover": (0.5, 0, 0),
}
# How much the weights are believed at first: as if so much of the work had taken what it should.
_BELIEF = 0.1
# From this part of a phase on, its own rate tells more than its weight.
_KNOWN = 0.3


def weights(table_bytes: int, index_bytes: int) -> dict[str, float]:
    """Seconds for each phase, in order, for tables and indexes of so many bytes."""
    tables, indexes = table_bytes / _MIB, index_bytes / _MIB
    return {
        phase: fixed + by_table * tables + by_index * indexes
        for phase, (fixed, by_table, by_index) in _COSTS.items()
    }


@dataclass(frozen=True)
class Seen:
    """A change at work: seconds of the phases that are over, and of the one under way, `part` of it done.

    part None: nobody can tell. Seconds do not count in which the change waited for somebody.
    """

    took: Mapping[str, float]
    phase: str
    seconds: float
    part: float | None = None


def left(expected: Mapping[str, float], seen: Seen) -> float:
    """Seconds until the end, at the pace so far; never negative."""
    pace = _pace(expected, seen)
    later = sum(
        seconds for phase, seconds in expected.items() if phase not in seen.took and phase != seen.phase
    )
    return _left_of_phase(expected.get(seen.phase, 0.0) * pace, seen) + later * pace


def percent(expected: Mapping[str, float], seen: Seen) -> float:
    """How much of the work is done, by the phases' weights; 0 to 100."""
    whole = sum(expected.values())
    done = sum(expected.get(phase, 0.0) for phase in seen.took)
    done += expected.get(seen.phase, 0.0) * (0.0 if seen.phase in seen.took else (seen.part or 0.0))
    return 100 * min(1.0, done / whole) if whole else 0.0


def _left_of_phase(whole: float, seen: Seen) -> float:
    if seen.phase in seen.took:
        return 0.0
    if not seen.part:
        # It takes longer than it should: half as long again as it took, less and less likely to end now.
        return max(whole - seen.seconds, seen.seconds * 0.1)
    known = min(1.0, seen.part / _KNOWN)
    whole = known * seen.seconds / seen.part + (1 - known) * max(whole, seen.seconds)
    return whole * max(0.0, 1 - seen.part)


def _pace(expected: Mapping[str, float], seen: Seen) -> float:
    """How many times as long as expected the work takes."""
    parts = dict.fromkeys(seen.took, 1.0)
    took = dict(seen.took)
    if seen.part and seen.phase not in took:
        parts[seen.phase], took[seen.phase] = seen.part, seen.seconds
    foreseen = sum(expected.get(phase, 0.0) * part for phase, part in parts.items())
    whole = sum(expected.values())
    belief = _BELIEF * whole * max(0.0, 1 - foreseen / whole) ** 2 if whole else 0.0
    return (sum(took.values()) + belief) / (foreseen + belief) if foreseen + belief > 0 else 1.0


def smoothed(before: float | None, elapsed: float, now: float) -> float:
    """What to show after `before` was shown `elapsed` seconds ago: the clock runs, corrections come gently.

    Half of a correction is there after a tenth of what is left, at least after a second.
    """
    if before is None:
        return now
    expected = max(0.0, before - elapsed)
    half_life = max(1.0, 0.1 * now)
    return now + (expected - now) * exp(-0.7 * elapsed / half_life)
