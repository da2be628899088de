"""The SQL of this package."""

from __future__ import annotations

from importlib.resources import files


def read_sql(*path: str) -> bytes:
    """A statement of this package."""
    return files("mandate.controlplane.access").joinpath("sql", *path).read_bytes()
