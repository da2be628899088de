"""What a replay counts. Totals of parts add up to those of the whole, in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self


class Finding(StrEnum):
    """What became of one decision."""

    SAME = "same"
    DIFFERENT = "different"
    UNATTRIBUTED = "unattributed"
    UNCHECKABLE = "uncheckable"


@dataclass
class Totals:
    """Decisions by finding, by recorded and new verdict, and by reason where there is nothing to compare."""

    findings: Counter[str] = field(default_factory=Counter)
    matrix: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def decisions(self) -> int:
        """All that were looked at."""
        return sum(self.findings.values())

    @property
    def checked(self) -> int:
        """Those that could be compared."""
        return self.findings[Finding.SAME] + self.findings[Finding.DIFFERENT]

    def add(self, other: Totals) -> None:
        """Count the decisions of another part."""
        self.findings.update(other.findings)
        self.matrix.update(other.matrix)
        self.reasons.update(other.reasons)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {
            "decisions": self.decisions,
            "checked": self.checked,
            **{str(finding): self.findings[finding] for finding in Finding},
            "matrix": [
                {"recorded": old, "replayed": new, "decisions": count}
                for (old, new), count in sorted(self.matrix.items())
            ],
            "reasons": [
                {"finding": finding, "reason": reason, "decisions": count}
                for (finding, reason), count in sorted(self.reasons.items())
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(
            Counter({finding: int(data[finding]) for finding in Finding}),
            Counter({(cell["recorded"], cell["replayed"]): cell["decisions"] for cell in data["matrix"]}),
            Counter({(row["finding"], row["reason"]): row["decisions"] for row in data["reasons"]}),
        )
