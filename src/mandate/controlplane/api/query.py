"""The query string: every parameter is known, given once and well-formed, or the answer is a 400."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from mandate.controlplane.access.principal import current
from mandate.controlplane.api import cursor
from mandate.controlplane.api.problems import (
    MALFORMED_PARAMETER,
    MALFORMED_REQUEST,
    OUTSIDE_TOKEN,
    REPEATED_PARAMETER,
    UNKNOWN_PARAMETER,
    Problem,
)
from mandate.controlplane.model import SELECTORS, Stage, Verdict
from mandate.controlplane.store import UUID_PATTERN, Position, Selection

MAX_LIMIT = 500
DEFAULT_LIMIT = 50
MAX_TEXT = 1000

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_TIMESTAMP = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True)
class Parameter:
    """One parameter: `parse` gives its canonical text or raises ValueError saying what is wanted."""

    name: str
    description: str
    schema: Mapping[str, Any]
    parse: Callable[[str], str]
    example: Any = None

    def openapi(self) -> dict[str, Any]:
        """Its OpenAPI description."""
        described = {
            "name": self.name,
            "in": "query",
            "required": False,
            "description": self.description,
            "schema": dict(self.schema),
        }
        return described if self.example is None else {**described, "example": self.example}


def text(value: str) -> str:
    """Any text of 1 to 1000 characters."""
    if not 1 <= len(value) <= MAX_TEXT:
        raise ValueError(f"wants 1 to {MAX_TEXT} characters")
    return value


def uuid(value: str) -> str:
    """A UUID in the usual form; lower case."""
    if not UUID_PATTERN.fullmatch(value):
        raise ValueError("wants a UUID such as 00000000-0000-0000-0000-000000000001")
    return value.lower()


def timestamp(value: str) -> str:
    """An RFC 3339 date and time with an offset."""
    if not _TIMESTAMP.fullmatch(value):
        raise ValueError("wants an RFC 3339 time such as 2026-01-31T12:00:00Z (write + as %2B)")
    try:
        return datetime.fromisoformat(value.upper()).isoformat()
    except ValueError as error:
        raise ValueError(f"is not a time that exists: {error}") from None


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"wants one of {', '.join(allowed)}")
        return value

    return parse


def limit(value: str) -> str:
    """1 to 500."""
    if not re.fullmatch(r"[0-9]{1,3}", value, re.ASCII) or not 1 <= int(value) <= MAX_LIMIT:
        raise ValueError(f"wants a whole number from 1 to {MAX_LIMIT}")
    return value


def version(value: str) -> str:
    """The number of a spec's version."""
    if not re.fullmatch(r"[0-9]{1,10}", value, re.ASCII) or not 1 <= int(value) < 2**31:
        raise ValueError("wants a version such as 1")
    return value


_STATUSES = ["draft", "active", "deprecated"]
_STAGES = [stage.value for stage in Stage]
_VERDICTS = [verdict.value for verdict in Verdict]
_UUID = {"type": "string", "format": "uuid"}
_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_TIME = {"type": "string", "format": "date-time"}

ORGANIZATION = Parameter(
    "organization_id", "Of this organization.", _UUID, uuid, "00000000-0000-0000-0000-000000000001"
)
DOMAIN = Parameter("domain", "Of this domain: its name, or the UUID it once had.", _TEXT, text, "finance")
PAGING = (
    Parameter(
        "limit",
        "Rows in a page.",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        limit,
    ),
    Parameter(
        "cursor",
        "`next_cursor` of the page before, with the same filters.",
        {"type": "string", "maxLength": cursor.MAX_LENGTH},
        str,
    ),
)
EVENTS = (
    ORGANIZATION,
    DOMAIN,
    Parameter("verdict", "With this verdict.", {"enum": _VERDICTS}, _one_of(*_VERDICTS), "BLOCK"),
    Parameter("intent", "Of this intent.", _TEXT, text, "issue_refund"),
    Parameter("stage", "At this stage.", {"enum": _STAGES}, _one_of(*_STAGES), "pre_commit"),
    Parameter("actor", "By this actor.", _TEXT, text, "refund-agent"),
    Parameter("target", "On this target.", _TEXT, text),
    Parameter("scope_id", "Under this scope: its readable id, or the UUID it once had.", _TEXT, text),
    Parameter(
        "since",
        "Received (a verdict: given) at this time or later; a caller's own `timestamp` does not count.",
        _TIME,
        timestamp,
        "2026-01-01T00:00:00Z",
    ),
    Parameter("until", "Received, or given, before this time.", _TIME, timestamp),
    *PAGING,
)
DOMAINS = (ORGANIZATION, DOMAIN, *PAGING)
OF_ONE = (ORGANIZATION,)
SCOPES = (
    ORGANIZATION,
    DOMAIN,
    *(Parameter(name, f"With this {name} as selector.", _TEXT, text) for name in SELECTORS),
    *PAGING,
)
VERSION = Parameter(
    "version",
    "This version; the newest without.",
    {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    version,
)
ONE_SPEC = (ORGANIZATION, VERSION)
TIMELINE = (ORGANIZATION, *PAGING)
SPECS = (
    ORGANIZATION,
    DOMAIN,
    Parameter("intent", "For this intent.", _TEXT, text, "issue_refund"),
    Parameter("stage", "For this stage.", {"enum": _STAGES}, _one_of(*_STAGES), "pre_commit"),
    Parameter("status", "With this status.", {"enum": _STATUSES}, _one_of(*_STATUSES), "active"),
    *PAGING,
)
POLICY_SNAPSHOTS = (
    ORGANIZATION,
    DOMAIN,
    Parameter("since", "Made at this time or later.", _TIME, timestamp, "2026-01-01T00:00:00Z"),
    Parameter("until", "Made before this time.", _TIME, timestamp),
    *PAGING,
)


def selection(
    raw: bytes,
    parameters: tuple[Parameter, ...],
    order: cursor.Order,
    fixed: Mapping[str, str] | None = None,
) -> Selection:
    """What a query string asks of a list; `fixed` filters come from the path. Raises Problem (400)."""
    values = {**parse(raw, parameters), **(fixed or {})}
    page_size = int(values.pop("limit", DEFAULT_LIMIT))
    after = _after(values.pop("cursor", None), order, values)
    domain, scope_id = values.pop("domain", None), values.pop("scope_id", None)
    return Selection(page_size, values, domain, scope_id, after)


def _after(given: str | None, order: cursor.Order, filters: Mapping[str, str]) -> Position | None:
    if given is None:
        return None
    position = cursor.decode(given, order, filters)
    if position is None:
        detail = "cursor: is not a next_cursor that this list gave with these filters"
        raise Problem(MALFORMED_PARAMETER, detail, {"parameter": "cursor"})
    return position


def next_cursor(chosen: Selection, end: tuple[str, str] | None, order: cursor.Order) -> str | None:
    """The cursor for the page after the one that ended at `end`."""
    if end is None:
        return None
    named = {"domain": chosen.domain, "scope_id": chosen.scope_id}
    filters = {**chosen.filters, **{key: value for key, value in named.items() if value is not None}}
    return cursor.encode(end, order, filters)


def parse(raw: bytes, parameters: tuple[Parameter, ...]) -> dict[str, str]:
    """Name -> canonical value. Raises Problem (400) for what is unknown, repeated or malformed."""
    known = {parameter.name: parameter for parameter in parameters}
    values: dict[str, str] = {}
    for name, value in _pairs(raw):
        if name not in known:
            names = ", ".join(known) or "none"
            raise Problem(UNKNOWN_PARAMETER, f"{name[:100]!r} is not a parameter here; known: {names}")
        if name in values:
            raise Problem(REPEATED_PARAMETER, f"{name}: give it once", {"parameter": name})
        try:
            values[name] = known[name].parse(value)
        except ValueError as wanted:
            raise Problem(MALFORMED_PARAMETER, f"{name}: {wanted}", {"parameter": name}) from None
    _check_organization(values.get(ORGANIZATION.name))
    return values


def _check_organization(asked: str | None) -> None:
    """An empty list would say that there is nothing; the statements would give none all the same."""
    if asked is not None and current().organization_id not in (None, asked):
        raise Problem(
            OUTSIDE_TOKEN, "organization_id: is not that of the token", {"parameter": "organization_id"}
        )


def _pairs(raw: bytes) -> Iterator[tuple[str, str]]:
    for part in raw.split(b"&"):
        if part:
            name, equals, value = part.partition(b"=")
            if not equals:
                raise Problem(MALFORMED_REQUEST, "a parameter of the query has no '='")
            yield decoded(name.replace(b"+", b" ")), decoded(value.replace(b"+", b" "))


def decoded(raw: bytes) -> str:
    """Percent-decoded UTF-8 without NUL. Raises Problem (400)."""
    if _BROKEN_ESCAPE.search(raw):
        raise Problem(MALFORMED_REQUEST, "a % of the URL is not followed by two hexadecimal digits")
    try:
        value = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise Problem(MALFORMED_REQUEST, "the URL, percent-decoded, is not UTF-8") from None
    if "\0" in value:
        raise Problem(MALFORMED_REQUEST, "the URL contains a NUL character")
    return value
