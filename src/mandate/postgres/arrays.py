"""Array literals: many values as one parameter, without the driver looking at each."""

from __future__ import annotations

from collections.abc import Iterable


def literal(values: Iterable[str | None]) -> str:
    """An array of texts as PostgreSQL reads it, for a parameter that the statement casts (`::text[]`)."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
