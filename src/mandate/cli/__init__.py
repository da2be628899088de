"""Arguments, exit codes, the only printing."""

from mandate.cli.app import main

__all__ = ["main"]
