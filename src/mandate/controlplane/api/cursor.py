"""Cursors: where a page ended, bound to the list and the filters that gave it.

base64url of a JSON array [first, second, digest]. The digest catches a cursor that was cut, edited or carried
to another list or filter; it is no signature, so the sort key inside is checked as strictly as any input.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from mandate.controlplane.store import UUID_PATTERN, Position

MAX_LENGTH = 4096

_TIME = re.compile(
    r"-?infinity|\d{4,6}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d{1,6})?\+00( BC)?", re.ASCII
)  # as PostgreSQL prints timestamptz with TimeZone UTC
_OF = rf"( {UUID_PATTERN.pattern})?"  # whose it is: in version 9 two organizations may have the same id
_OWNED = re.compile(UUID_PATTERN.pattern + _OF, re.IGNORECASE)
_NAME = re.compile(r"[^\0]{0,2704}", re.DOTALL)  # no longer key fits a btree


@dataclass(frozen=True)
class Order:
    """The sort order of a list: its name and the forms of the two parts of its key."""

    name: str
    first: re.Pattern[str]
    second: re.Pattern[str]


DECISIONS = Order("decisions", _TIME, _OWNED)
VERDICTS = Order("verdicts", _TIME, _OWNED)
TIMELINE = Order("timeline", _TIME, re.compile(rf"(?:{_TIME.pattern}) {UUID_PATTERN.pattern}", re.ASCII))
DOMAINS = Order("domains", UUID_PATTERN, _NAME)
SCOPES = Order("scopes", UUID_PATTERN, _NAME)
SPECS = Order("specs", _NAME, re.compile(rf"-?\d{{1,10}}{_OF}", re.ASCII | re.IGNORECASE))
POLICY_SNAPSHOTS = Order("policy_snapshots", _TIME, UUID_PATTERN)


def encode(end: tuple[str, str], order: Order, filters: Mapping[str, str]) -> str:
    """The cursor for the page that begins after `end`."""
    document = json.dumps([*end, _digest(end, order, filters)], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def decode(given: str, order: Order, filters: Mapping[str, str]) -> Position | None:
    """The position, or None when this list with these filters cannot have given the cursor."""
    if len(given) > MAX_LENGTH:
        return None
    try:
        raw = base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True)
        document = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        return None
    match document:
        case [str(first), str(second), str(digest)] if (
            order.first.fullmatch(first)
            and order.second.fullmatch(second)
            and digest == _digest((first, second), order, filters)
        ):
            return Position(first, second)
    return None


def _digest(end: tuple[str, str], order: Order, filters: Mapping[str, str]) -> str:
    text = json.dumps([order.name, *end, sorted(filters.items())])
    return blake2b(text.encode(), digest_size=9).hexdigest()
