"""Migration 008 as a change of keys for the rekey engine."""

from __future__ import annotations

from mandate.errors import UsageError
from mandate.postgres.connection import Target
from mandate.progress import Reporter
from mandate.rekey import cutover
from mandate.rekey.engine import Engine

NAME = "008"


def engine(
    target: Target,
    reporter: Reporter,
    *,
    online: bool,
    jobs: int,
    swap: cutover.Options | None = None,
    accept: frozenset[str] = frozenset(),
) -> Engine:
    """The engine that takes `target` from version 7 to 8. Raises UsageError: not in this release."""
    raise UsageError(
        f"this release has no change of keys for {target} (migration {NAME})", hint="use --plain-sql"
    )
