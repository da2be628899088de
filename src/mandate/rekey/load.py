"""How much a change may work, from how its server fares. Pure: `signals` reads, `governor` obeys.

Quick to back off, slow to speed up: one bad reading halves the share of the time that the change may work, or
stops it; one good reading gives a twentieth back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil

_STEP = 0.05
# Above this part of a limit the share is left as it is.
_NEAR = 0.85
# That many times a limit that the change alone can hardly have caused by degrees: stop at once.
_FAR = 3.0
_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What the server must not go beyond; None: as far as it likes.

    lag_*: the slowest standby or subscriber that is connected. wal_rate: bytes a second, everybody's.
    sessions: active ones that are not Mandate's. latency: milliseconds that a probe takes to commit a row;
    without it, `latency_ratio` times what the slowest take while the change does not work, but never below
    `latency_floor`.
    """

    lag_seconds: float | None = 5.0
    lag_bytes: int | None = 128 * _MIB
    wal_rate: float | None = None
    sessions: int | None = None
    latency: float | None = None
    latency_ratio: float | None = 1.5
    latency_floor: float = 3.0

    @property
    def limits_latency(self) -> bool:
        return self.latency is not None or self.latency_ratio is not None

    @property
    def wanted(self) -> frozenset[str]:
        """The signals without which nothing can be decided."""
        asked = {
            "replication lag": self.lag_seconds is not None or self.lag_bytes is not None,
            "WAL rate": self.wal_rate is not None,
            "active sessions": self.sessions is not None,
            "latency": self.limits_latency,
        }
        return frozenset(name for name, needed in asked.items() if needed)


@dataclass(frozen=True)
class Signals:
    """How the server fares: units as in Limits. `unreadable`: signal (as in Limits.wanted) -> why.

    latency: what the slowest probes took of late; baseline: what they take while the change does not work.
    """

    lag_seconds: float = 0.0
    lag_bytes: int = 0
    wal_rate: float = 0.0
    sessions: int = 0
    latency: float = 0.0
    baseline: float = 0.0
    unreadable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """`share` of the time that may be worked, 0: not at all; `reason` of a share below 1."""

    share: float = 1.0
    reason: str | None = None


@dataclass(frozen=True)
class _Pressure:
    """A signal as a part of its limit. `hard`: beyond the limit nothing may be worked."""

    part: float
    hard: bool
    text: str


def decide(signals: Signals, limits: Limits, before: Decision) -> Decision:
    """What may be worked until the next reading, after `before`. Never more for a worse signal."""
    missing = sorted(limits.wanted & signals.unreadable.keys())
    if missing:
        return Decision(0.0, "; ".join(f"cannot read {name}: {signals.unreadable[name]}" for name in missing))
    pressures = list(_pressures(signals, limits))
    worst = min(pressures, key=lambda each: (_next(before.share, each), -each.part), default=None)
    share = 1.0 if worst is None else _next(before.share, worst)
    if worst is None or share >= 1:
        return Decision()
    if worst.part > _NEAR:
        return Decision(share, worst.text)
    return Decision(share, f"speeding up slowly; before: {_cause(before)}")


def _cause(before: Decision) -> str:
    return (before.reason or "").removeprefix("speeding up slowly; before: ")


def _next(share: float, pressure: _Pressure) -> float:
    """The next share as far as one signal goes: less for a higher one."""
    if pressure.part <= _NEAR:
        return min(1.0, share + _STEP)
    if pressure.part <= 1:
        return share
    if pressure.hard or pressure.part > _FAR or share / 2 < _STEP:
        return 0.0
    return share / 2


def _pressures(signals: Signals, limits: Limits) -> Iterator[_Pressure]:
    if limits.lag_seconds is not None:
        text = f"replication is {signals.lag_seconds:.1f} s behind, limit {limits.lag_seconds:g} s"
        yield _Pressure(_part(signals.lag_seconds, limits.lag_seconds), True, text)
    if limits.lag_bytes is not None:
        text = f"replication is {_mib(signals.lag_bytes)} behind, limit {_mib(limits.lag_bytes)}"
        yield _Pressure(_part(signals.lag_bytes, limits.lag_bytes), True, text)
    if limits.wal_rate is not None:
        text = f"{_mib(signals.wal_rate)} of WAL a second, limit {_mib(limits.wal_rate)}"
        yield _Pressure(_part(signals.wal_rate, limits.wal_rate), False, text)
    if limits.sessions is not None:
        text = f"{signals.sessions} active sessions, limit {limits.sessions}"
        # A number of sessions that is allowed is not nearly too much.
        part = 2.0 if signals.sessions > limits.sessions else 0.0
        yield _Pressure(part, True, text)
    if (limit := latency_limit(signals.baseline, limits)) is not None:
        text = f"a commit takes {signals.latency:.1f} ms, limit {limit:.1f} ms"
        yield _Pressure(_part(signals.latency, limit), False, text)


def latency_limit(baseline: float, limits: Limits) -> float | None:
    """Milliseconds that a probe may take."""
    if limits.latency is not None:
        return limits.latency
    if limits.latency_ratio is None:
        return None
    return max(limits.latency_floor, limits.latency_ratio * baseline)


def _part(value: float, limit: float) -> float:
    if limit <= 0:
        return 0.0 if value <= 0 else float("inf")
    return value / limit


def _mib(value: float) -> str:
    return f"{value / _MIB:.1f} MiB"


def quantile(samples: Iterable[float], part: float) -> float:
    """The value that `part` of the samples do not exceed. There must be some."""
    ordered = sorted(samples)
    return ordered[max(0, ceil(part * len(ordered)) - 1)]


def nth_largest(samples: Iterable[float], n: int) -> float:
    """The n-th largest; 0 of fewer: so many slow ones are needed for an alarm."""
    ordered = sorted(samples, reverse=True)
    return ordered[n - 1] if len(ordered) >= n else 0.0
