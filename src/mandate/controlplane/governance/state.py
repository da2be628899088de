"""What a database has of what people govern by, as plain rows.

The keys of a row are the columns of version 8; `system` is scopes.scope_system. Version 7 reads the same,
with UUIDs as scope ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Whose rows to read: organizations by name or id, or every one; scopes and specs also by id."""

    every: bool = False
    names: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    specs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class State:
    """Rows of organizations, domains, scopes, specs (every version) and each domain's newest snapshot.

    `version` of the schema: in version 9 ids belong to an organization, and specs succeed each other.
    """

    organizations: tuple[Row, ...] = ()
    domains: tuple[Row, ...] = ()
    scopes: tuple[Row, ...] = ()
    specs: tuple[Row, ...] = ()
    snapshots: tuple[Row, ...] = ()
    version: int = field(default=8, kw_only=True)

    @property
    def by_organization(self) -> bool:
        """Whether two organizations may use one id, and an appended event says which spec is in force."""
        return self.version >= 9


def same(left: object, right: object) -> bool:
    """Equality of JSON values without Python's True == 1; 1 and 1.0 are one number."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, int | float) and isinstance(right, int | float):
        return isinstance(left, bool) == isinstance(right, bool) and _one_number(left, right)
    return left == right


def _one_number(left: float, right: float) -> bool:
    """PostgreSQL gives 5.708270926197289e+16 back as 57082709261972890, which no double is."""
    if isinstance(left, float) == isinstance(right, float):
        return left == right
    try:
        return float(left) == float(right)
    except OverflowError:
        return False


def normal_policy(policy: Any) -> Any:
    """A stored policy with what may be left out left out."""
    if not isinstance(policy, Mapping):
        return policy
    kept = {key: value for key, value in policy.items() if value not in (None, "")}
    return {**kept, "conditions": policy.get("conditions") or []}


def normal_signal(signal: Any) -> Any:
    """A stored signal with its defaults written out."""
    if not isinstance(signal, Mapping):
        return signal
    kept = {key: value for key, value in signal.items() if value is not None and value != []}
    return {"required": False, "source": "context", **kept}


def normal_spec(row: Row) -> dict[str, Any]:
    """allowed_verdicts, signals and enforcement of a stored spec, in the form that equal ones share."""
    return {
        "allowed_verdicts": sorted(row["allowed_verdicts"]),
        "signals": [normal_signal(signal) for signal in row["signals"]],
        "enforcement": {key: value for key, value in row["enforcement"].items() if value is not None},
    }
