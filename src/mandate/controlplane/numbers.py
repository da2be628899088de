"""Numbers as they were written: a literal that no double stands for is compared by every digit of it.

`exact` gives the usual ones as int and float, which compare with each other as their spellings do, and the
rest as an `Exact`, which compares with both of them by what they spell.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from pydantic_core import to_json

_ALWAYS_KEPT = 16  # characters with the point: a double keeps any fifteen digits
_INTEGERS = 2**53  # doubles from here on stand for integers that their spelling may not say


class Exact(Decimal):
    """A number that has more digits than a double keeps. A float that it meets is what its repr spells."""

    __slots__ = ()

    def __lt__(self, other: Any) -> bool:
        return super().__lt__(_spelled(other))

    def __le__(self, other: Any) -> bool:
        return super().__le__(_spelled(other))

    def __gt__(self, other: Any) -> bool:
        return super().__gt__(_spelled(other))

    def __ge__(self, other: Any) -> bool:
        return super().__ge__(_spelled(other))

    def __eq__(self, other: object) -> bool:
        return super().__eq__(_spelled(other))

    __hash__ = Decimal.__hash__


def _spelled(other: Any) -> Any:
    return Decimal(repr(other)) if isinstance(other, float) else other


def exact(literal: str) -> int | float | Exact:
    """The value of a number with a point or an exponent, written as in JSON."""
    if len(literal) <= _ALWAYS_KEPT and "e" not in literal and "E" not in literal:
        return float(literal)
    value = float(literal)
    if repr(value) == literal and abs(value) < _INTEGERS:
        return value
    written = Decimal(literal)
    if written.copy_abs() >= _INTEGERS and written == written.to_integral_value():
        return int(written)
    return value if Decimal(repr(value)) == written else Exact(written)


def is_kept(literal: str) -> bool:
    """Whether a number without an exponent is what a float makes of it; true of what is no number."""
    return literal.count(".") != 1 or type(exact(literal)) is float


def spelled(value: Any) -> str:
    """A value as JSON says it, a number with all its digits."""
    return str(value) if isinstance(value, Exact) else to_json(value).decode()
