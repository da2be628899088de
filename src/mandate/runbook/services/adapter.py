"""What every way of running services can do: stop them, start them, say which of them run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mandate.progress import Reporter


class Adapter(Protocol):
    """One way of running services. All methods raise ServiceFailed with the program's last lines.

    Stopping what is stopped and starting what runs are both fine, so that a step can be repeated.
    """

    @property
    def kind(self) -> str:
        """As in `services.kind` of mandate.toml."""

    def stop(self, reporter: Reporter) -> list[str]:
        """Stop the services and return the names of those that were running."""

    def start(self, reporter: Reporter, names: Sequence[str] = ()) -> list[str]:
        """Start the services and return the names of those that run now.

        `names` is what an earlier `stop` returned; services that the configuration does not name by
        themselves (instances of a unit template) are known from there only.
        """

    def running(self) -> list[str]:
        """Names of the services that run now."""

    def log_tail(self, names: Sequence[str] = ()) -> str:
        """The last lines that the services said, for a message; empty when nobody keeps them."""
