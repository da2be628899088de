"""Services that somebody else stops and starts."""

from __future__ import annotations

from collections.abc import Sequence

from mandate.progress import Reporter


class Nothing:
    """Does nothing and says so."""

    kind = "none"

    def stop(self, reporter: Reporter) -> list[str]:
        reporter.line("services.kind is none: somebody else stops the services")
        return []

    def start(self, reporter: Reporter, names: Sequence[str] = ()) -> list[str]:
        reporter.line("services.kind is none: somebody else starts the services")
        return []

    def running(self) -> list[str]:
        return []

    def log_tail(self, names: Sequence[str] = ()) -> str:
        return ""
