"""What a history is generated from. Equal parameters give equal rows, byte for byte."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from mandate.errors import UsageError

MAX_DECISIONS = 100_000_000
MAX_DOMAINS = 500
MAX_SKEW = 10.0
MAX_DAYS = 3650
DEFAULT_UNTIL = datetime(2026, 1, 1, tzinfo=UTC)

# Part of every generated identifier: bump it when the generator's output changes.
_GENERATION = "mandate seed 1"
_NAMESPACE = UUID("6d616e64-6174-5ee0-8000-000000000000")


@dataclass(frozen=True)
class Parameters:
    """The arguments of `mandate db seed`. Raises UsageError for what cannot be meant.

    `skew` is the exponent of a Zipf distribution of decisions over domains (0 = uniform); `until` is when
    the history ends and `days` how long it is.
    """

    decisions: int
    domains: int = 12
    skew: float = 1.0
    seed: int = 1
    until: datetime = DEFAULT_UNTIL
    days: int = 180

    def __post_init__(self) -> None:
        _within("--decisions", self.decisions, 1, MAX_DECISIONS)
        _within("--domains", self.domains, 1, MAX_DOMAINS)
        if not math.isfinite(self.skew):
            raise UsageError(f"--skew is {self.skew}; a number from 0 to {MAX_SKEW:g} is needed")
        _within("--skew", self.skew, 0, MAX_SKEW)
        _within("--seed", self.seed, -(2**63), 2**63 - 1)
        _within("--days", self.days, 1, MAX_DAYS)
        if self.until.tzinfo is None:
            raise UsageError("--until needs a time zone", hint="for example 2026-01-01T00:00:00Z")
        if not 1980 <= self.until.year <= 2200:
            raise UsageError(
                f"--until is in the year {self.until.year}", hint="from 1980 to 2200 is accepted"
            )

    @property
    def since(self) -> datetime:
        """When the history begins."""
        return self.until - timedelta(days=self.days)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, canonical: what tells one history from another."""
        return {
            "decisions": self.decisions,
            "domains": self.domains,
            "skew": float(self.skew),
            "seed": self.seed,
            "until": self.until.astimezone(UTC).isoformat(),
            "days": self.days,
        }

    @property
    def key(self) -> str:
        """One text for all of it; the root of every random choice and identifier."""
        return f"{_GENERATION} {sorted(self.as_dict().items())}"

    def identifier(self, *parts: object) -> str:
        """The UUID of something in this history, as text."""
        return str(uuid5(_NAMESPACE, f"{self.key} {'/'.join(map(str, parts))}"))


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} is {value:,}; it must be from {low:,} to {high:,}")


def parse_until(text: str | None) -> datetime:
    """An ISO 8601 date or time; UTC where it names no zone. Raises UsageError."""
    if text is None:
        return DEFAULT_UNTIL
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--until {text!r} is not a date", hint="for example 2026-01-01 or 2026-01-01T12:00:00Z"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
