"""Figures and hostile text as a person should see them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeGuard

from mandate.postgres.connection import redact
from mandate.runbook.record import RunRecord, StepRecord

NONE = "–"
MAX_DIGITS = 18  # longer digits are an identifier rather than a count
MAX_TEXT = 4000  # characters of one value; what is left out is counted


def seconds(value: object) -> str:
    """A duration: 0.4 s, 41 s, 2 min 51 s, 1 h 02 min; a dash when it is not known."""
    if not _is_number(value):
        return NONE
    number = float(value)
    if number < 10:
        return f"{number:.2g} s" if 0 < number < 0.1 else f"{number:.1f} s"
    whole = round(number)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def count(value: object) -> str:
    """An integer, also one in digits, with thousands separators; other values as text; a dash for None."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= MAX_DIGITS:
        value = int(value)
    if _is_number(value):
        return f"{value:,}"
    return NONE if value is None or value == "" else str(value)


def size(value: object) -> str:
    """Bytes in binary units: 393.0 MiB."""
    if not _is_number(value):
        return NONE
    number = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def plural(number: int, one: str, many: str | None = None) -> str:
    """1 row, 2,000 rows."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(value: datetime | None) -> str:
    """2026-11-22 22:00:04 UTC."""
    return aware(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if value else NONE


def clock(value: datetime | None) -> str:
    """22:00:04 (UTC)."""
    return aware(value).astimezone(UTC).strftime("%H:%M:%S") if value else NONE


def aware(value: datetime) -> datetime:
    """A moment without a zone is taken as UTC."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def visible(text: str) -> str:
    r"""The text with passwords, control and direction-changing characters made harmless and visible.

    Newlines and tabs stay. Raises nothing, whatever the text is made of.
    """
    cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT]
    shown = redact(cut)
    if not shown.isprintable():
        shown = "".join(char if _is_harmless(char) else _escaped(char) for char in shown)
    left = len(text) - len(cut)
    return f"{shown} … ({left:,} more characters)" if left else shown


def _is_harmless(char: str) -> bool:
    return char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escaped(char: str) -> str:
    return f"\\u{{{ord(char):x}}}"


def cell(value: object) -> str:
    """Any value of an offending row: NULL is said, structures are compact."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {cell(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return ", ".join(cell(item) for item in value)
    return str(value)


def clean(value: Any) -> Any:
    """A copy of evidence in which every string has gone through `visible`."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    return value


def cleaned(record: RunRecord) -> RunRecord:
    """The record with every string made safe to show; figures are untouched."""
    return replace(
        record,
        run_id=visible(record.run_id),
        migration=visible(record.migration),
        title=visible(record.title),
        mode=visible(record.mode),
        database=visible(record.database),
        server_version=visible(record.server_version),
        mandate_version=visible(record.mandate_version),
        host=visible(record.host),
        operator=visible(record.operator),
        directory=visible(record.directory),
        steps=tuple(map(_cleaned_step, record.steps)),
    )


def _cleaned_step(step: StepRecord) -> StepRecord:
    return replace(
        step,
        name=visible(step.name),
        title=visible(step.title),
        guide=visible(step.guide),
        summary=visible(step.summary),
        evidence=clean(step.evidence),
        warnings=tuple(map(visible, step.warnings)),
        error=clean(step.error),
    )
