"""Recorded decisions evaluated again: with their own policies as a self-check, or with a candidate's."""

from mandate.controlplane.replay.replaying import CHUNK_DECISIONS, Report, Request, replay

__all__ = ["CHUNK_DECISIONS", "Report", "Request", "replay"]
