"""Which version of a spec is in force, declared against recorded. Pure.

In version 9 specs succeed each other, by appended events; before, the one that is active stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mandate.controlplane.governance import shapes
from mandate.controlplane.governance.state import Row

Event = Literal["activated", "retired"]


@dataclass(frozen=True)
class Step:
    """The recorded version that is meant, and what has to be appended to make it what is declared."""

    row: Row
    event: Event | None


@dataclass(frozen=True)
class Impossible:
    """Why what is declared cannot be reached."""

    why: str


def step(
    value: shapes.Spec, line: Sequence[Row], differing: Callable[[Row], list[str]]
) -> Step | Impossible | None:
    """The step for a spec, given its recorded versions; None where a new version has to be recorded.

    `differing`: in which parts besides the status a recorded version is not what is declared.
    """
    if value.version is not None:
        found = next((row for row in line if row["version"] == value.version), None)
    else:
        found = _meant(value, line, differing)
    if found is None:
        return _new(value)
    if parts := differing(found):
        name = f"spec {value.spec_id} version {found['version']}"
        return Impossible(f"{name} differs in {' and '.join(parts)}, and a version never changes")
    return _moved(value, found)


def _meant(value: shapes.Spec, line: Sequence[Row], differing: Callable[[Row], list[str]]) -> Row | None:
    """The version that is meant where none is given: what is in force, or else the newest, if it is that."""
    newest = max(line, key=lambda row: int(row["version"]), default=None)
    active = next((row for row in line if row["status"] == "active"), None)
    if value.status == "deprecated":
        return active or newest
    if value.status == "draft":
        drafts = [row for row in line if row["status"] == "draft"]
        active, newest = None, max(drafts, key=lambda row: int(row["version"]), default=None)
    return next((row for row in (active, newest) if row is not None and not differing(row)), None)


def _new(value: shapes.Spec) -> Impossible | None:
    if value.status == "deprecated":
        return Impossible(f"spec {value.spec_id} is not recorded: there is nothing to retire")
    return None


def _moved(value: shapes.Spec, row: Row) -> Step | Impossible:
    if row["status"] == value.status:
        return Step(row, None)
    name = f"spec {value.spec_id} version {row['version']}"
    if value.status == "active":
        return Step(row, "activated")
    if value.status == "draft":
        return Impossible(
            f"{name} was in force, and is no draft any more: leave `version` out, or give a new one"
        )
    if row["status"] == "active":
        return Step(row, "retired")
    return Impossible(f"{name} is a draft: it was never in force, so there is nothing to retire")


def cannot_replace(active: Row, value: shapes.Spec, version: int, differing: list[str]) -> str:
    """Why a version 8 database cannot put a spec in the place of another, and what is possible."""
    if active["spec_id"] == value.spec_id:
        kept = f"keep version {active['version']} as it is and put the change into policies"
    else:
        kept = f"use spec {active['spec_id']} as it is"
    differs = f", and differs in {listed(differing)}" if differing else ""
    return (
        f"spec {active['spec_id']} version {active['version']} is active for {value.intent} at {value.stage}"
        f"{differs}. A version 8 database cannot retire it: specs never change, and one at a time is active."
        f" Possible: {kept}; `status: draft` to store this as version {version}, to be activated after"
        " migration 009; or another intent"
    )


def never_changes(value: shapes.Spec, row: Row, differing: list[str]) -> str:
    """Why a recorded version of a version 8 database cannot become what is declared."""
    said = f"spec {named(row)} differs in {listed(differing)}, and a version never changes"
    if differing == ["status"]:
        return f"{said}: a version 8 database cannot activate or retire it; migration 009 brings that"
    return f"{said}: leave `version` out, or give a new one"


def cannot_retire(value: shapes.Spec) -> str:
    """Why a version 8 database cannot retire a spec."""
    return f"spec {value.spec_id}: a version 8 database cannot retire one; migration 009 brings that"


def named(row: Row) -> str:
    """A spec as people know it."""
    return f"{row['spec_id']} version {row['version']} ({row['status']})"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
