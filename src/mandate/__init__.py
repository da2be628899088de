"""Mandate: a control plane for AI agents' decisions, and the conductor that migrates its record."""

__version__ = "0.1.0"
