"""How much of the time the copy may work: asked for from another terminal, obeyed between two chunks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

_LONGEST_SECONDS = 5.0


def pause_seconds(worked: float, share: float | None) -> float:
    """How long to rest after `worked` seconds, so that working is `share` of the time. Pure."""
    if share is None or share >= 1:
        return 0.0
    return min(_LONGEST_SECONDS, worked * (1 / share - 1))


@dataclass
class Pace:
    """Rests between pieces of work."""

    _since: float = field(default_factory=time.monotonic)

    def rest(self, share: float | None) -> float:
        """Rest as long as the share asks for after the work since the last rest; the seconds rested."""
        seconds = pause_seconds(time.monotonic() - self._since, share)
        if seconds:
            time.sleep(seconds)
        self._since = time.monotonic()
        return seconds


@dataclass
class Gate:
    """Lets one thread at a time through `wait`; once it raised, everybody gets that error."""

    wait: Callable[[], None]
    _lock: Lock = field(default_factory=Lock)
    _error: BaseException | None = None

    def __call__(self) -> None:
        with self._lock:
            if self._error is not None:
                raise self._error
            try:
                self.wait()
            except BaseException as error:
                self._error = error
                raise
