"""What the guide stops and starts: compose, systemd, processes, plain commands."""

from __future__ import annotations

from mandate.errors import SettingsError
from mandate.runbook.services.adapter import Adapter
from mandate.runbook.services.command import Command
from mandate.runbook.services.compose import Compose
from mandate.runbook.services.nothing import Nothing
from mandate.runbook.services.process import Processes
from mandate.runbook.services.systemd import Systemd
from mandate.settings import ServicesSettings

__all__ = ["Adapter", "adapter"]


def adapter(settings: ServicesSettings) -> Adapter:
    """The adapter that `services.kind` names. Raises SettingsError when its settings are missing."""
    if settings.kind == "compose":
        return Compose(settings)
    if settings.kind == "systemd":
        _require(bool(settings.units), "systemd", "services.units")
        return Systemd(settings)
    if settings.kind == "process":
        _require(bool(settings.process), "process", "[[services.process]]")
        return Processes(settings)
    if settings.kind == "command":
        _require(bool(settings.stop_command), "command", "services.stop_command")
        _require(bool(settings.start_command), "command", "services.start_command")
        return Command(settings)
    return Nothing()


def _require(given: bool, kind: str, key: str) -> None:
    if not given:
        raise SettingsError(
            f"services.kind is {kind} and {key} is empty", hint=f"set {key} in mandate.toml", key=key
        )
