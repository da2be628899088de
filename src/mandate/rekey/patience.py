"""What two rows say may contradict itself between two transactions of a client: it is looked at again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mandate.errors import CheckFailed, MigrationFailed

T = TypeVar("T")

CATCH_UP_SECONDS = 10.0
FILL_SECONDS = 2.0
_TRY_AGAIN_SECONDS = 0.2


def patiently(work: Callable[[], T], seconds: float) -> T:
    """Do work that reads one snapshot; while its rows do not fit, again, for `seconds` at most."""
    until = time.monotonic() + seconds
    while True:
        try:
            return work()
        except (CheckFailed, MigrationFailed):
            if time.monotonic() >= until:
                raise
        time.sleep(_TRY_AGAIN_SECONDS)
