"""A posted decision: from the bytes of a body to values that mean something, or a refusal with the field.

Nothing is converted and nothing is inferred. The body itself is kept as text: PostgreSQL reads the evidence
from it, so that no digit of it goes through a float.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from pydantic_core import from_json

from mandate.controlplane.model import Decision, Stage
from mandate.controlplane.numbers import Exact, exact, is_kept
from mandate.controlplane.store import UUID_PATTERN
from mandate.errors import UsageError

MAX_NAME = 600  # characters: at four bytes each they still fit an index
MAX_TEXT = 32_768
MAX_DEPTH = 64
MAX_DIGITS = 100
MAX_EXPONENT = 300

_CONTAINERS = frozenset((dict, list))
_TIMESTAMP = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})", re.ASCII | re.IGNORECASE
)
# What makes a closer look necessary: it may stand inside of a text, where it means nothing.
_SUSPECT = re.compile(r"[0-9][eE][+-]?[0-9]+\s*[,\]}]|[0-9.]{90}|\\u0000")
# The same of a body with one digit, one e, one sign and one white space.
_SHAPE = bytes.maketrans(b"123456789.E+\t\n\r", b"0000000000e-   ")
_EXPONENT = re.compile(rb"0e-?0+\s*[,\]}]")
# A float of 16 digits or more may be another number than the one that is written.
_DIGITS = re.compile(rb"[0-9.]+")
_SIXTEEN_DIGITS = b"0" * 17
_MANY_DIGITS = b"0" * 90
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class MalformedBody(UsageError):
    """The body is no JSON object, or more than this service reads."""

    code = "malformed-body"


class InvalidDecision(UsageError):
    """The body is a JSON object and not a decision; `fields["field"]` is the field that says so."""

    code = "invalid-decision"


@dataclass(slots=True)  # frozen, it would take four times as long to make
class Posted:
    """A decision as it was posted. Attribution that is missing or empty is None; `body` is the JSON text.

    The fields up to `text` in the order of _READERS.
    """

    decision_id: str
    organization_id: str | None
    domain: str | None
    intent: str | None
    stage: Stage | None
    actor: str
    target: str
    context: Mapping[str, Any]
    scope: Mapping[str, Any]
    timestamp: datetime | None
    text: str | None
    body: str
    received: datetime
    traceparent: str | None = None

    @property
    def complete(self) -> bool:
        """Whether it says whose it is, and what kind of decision."""
        return bool(self.organization_id and self.domain and self.intent and self.stage)

    def decision(self) -> Decision:
        """What the evaluator sees; without a time of its own the decision has the time of its receipt."""
        return Decision(
            self.organization_id,
            self.domain,
            self.intent,
            self.stage,
            self.context,
            self.scope,
            self.timestamp or self.received,
        )


def read_decision(raw: bytes, traceparent: str | None = None) -> Posted:
    """The decision in a body. Raises MalformedBody or InvalidDecision."""
    body, document = read_object(raw)
    unknown = document.keys() - _READERS.keys()
    if unknown:
        name = min(unknown)
        raise InvalidDecision(f"{name[:100]!r} is no field of a decision", field=name[:100])
    values: list[Any] = []
    name = ""
    try:
        for name, read in _READERS.items():
            values.append(read(document.get(name)))
    except ValueError as wanted:
        raise InvalidDecision(f"{name} {wanted}", field=name) from None
    values += (body, datetime.now(UTC), traceparent)
    return Posted(*values)


def read_object(raw: bytes) -> tuple[str, dict[str, Any]]:
    """The text and the value of a body that is a JSON object. Raises MalformedBody."""
    try:
        body = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(f"the body is not UTF-8 (byte {error.start})") from None
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if raw.startswith(BOM_UTF8):
            raise MalformedBody(
                "the body begins with a byte order mark (EF BB BF): JSON is sent without one"
            ) from None
        raise MalformedBody(f"the body is not JSON that can be read: {error}") from None
    if not isinstance(document, dict):
        raise MalformedBody("the body is not a JSON object")
    shape = raw.translate(_SHAPE)
    if (_is_suspect(raw, shape) and _SUSPECT.search(body)) or _rounds(raw, shape):
        document = _look_closely(body)
    if _may_repeat(shape, document):
        json.loads(body, object_pairs_hook=_once, parse_int=str, parse_float=str)
    if body.count("{") + body.count("[") > MAX_DEPTH:
        _measure(document)
    return body, document


def _rounds(raw: bytes, shape: bytes) -> bool:
    """Whether the parser may have made another number of one that is written."""
    at = shape.find(_SIXTEEN_DIGITS)
    while at >= 0:
        found = _DIGITS.match(raw, at)
        assert found is not None
        if not is_kept(found[0].decode()):
            return True
        at = shape.find(_SIXTEEN_DIGITS, found.end())
    return False


def _is_suspect(raw: bytes, shape: bytes) -> bool:
    """Whether _SUSPECT may find something: a tenth of its time, for nearly every body there is."""
    return _MANY_DIGITS in shape or b"\\u0000" in raw or _EXPONENT.search(shape) is not None


def _may_repeat(shape: bytes, document: dict[str, Any]) -> bool:
    """Whether a key may be twice in one object: there are more colons after a quotation mark than keys."""
    return b" :" in shape or shape.count(b'":') != _keys(document)


def _keys(document: dict[str, Any]) -> int:
    """How many keys there are, inside as well."""
    count = 0
    containers: list[Any] = [document]
    for found in containers:  # which grows meanwhile
        if type(found) is dict:
            count += len(found)
            found = found.values()
        containers += [value for value in found if type(value) in _CONTAINERS]
    return count


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Two values of one key could be two things to whoever else reads the body."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_rest = (Counter(name for name, _ in pairs)).most_common(1)
        raise MalformedBody(f"{name[:100]!r} is twice in one object")
    return found


def read_traceparent(value: str | None) -> str | None:
    """A W3C trace context header, or None where it is absent or malformed: that one must be ignored."""
    return value if value and _TRACEPARENT.fullmatch(value) else None


def _look_closely(body: str) -> dict[str, Any]:
    """The value, with numbers as PostgreSQL will give them back. Raises MalformedBody."""
    document: dict[str, Any] = json.loads(body, parse_int=_integer, parse_float=_number)
    if any("\0" in text for text in _texts(document)):
        raise MalformedBody("the body contains a NUL character, which cannot be recorded")
    return document


def _integer(literal: str) -> int:
    _check_number(literal)
    return int(literal)


def _number(literal: str) -> int | float | Exact:
    # jsonb keeps 1e23 as the integer that it is, and no float is that one: a replay must see the same value.
    _check_number(literal)
    digits, _, exponent = literal.lower().partition("e")
    places = len(digits.partition(".")[2])
    return int(Decimal(literal)) if exponent and int(exponent) >= places else exact(literal)


def _check_number(literal: str) -> None:
    exponent = literal.lower().partition("e")[2]
    if len(literal) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise MalformedBody(
            f"a number has more than {MAX_DIGITS} digits or an exponent beyond {MAX_EXPONENT}"
        )


def _texts(value: Any) -> Iterator[str]:
    """Every string and every key inside."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            yield from found
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _measure(document: Any) -> None:
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise MalformedBody(f"the body is nested deeper than {MAX_DEPTH} levels")
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]


def _decision_id(value: object) -> str:
    found = _uuid(value)
    return str(uuid4()) if found is None else found


def _uuid(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not UUID_PATTERN.fullmatch(value):
        raise ValueError("must be a UUID such as 00000000-0000-0000-0000-000000000001")
    return value.lower()


def _optional_name(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ValueError(f"must be a text of at most {MAX_NAME} characters")
    return value


def _name(value: object) -> str:
    found = _optional_name(value)
    if found is None:
        raise ValueError("is required: a text that is not empty")
    return found


def _stage(value: object) -> Stage | None:
    if value is None or value == "":
        return None
    found = _STAGES.get(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"must be one of {', '.join(_STAGES)}")
    return found


_STAGES: Mapping[str, Stage] = {stage.value: stage for stage in Stage}


def _mapping(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value


def read_timestamp(value: object) -> datetime | None:
    """An RFC 3339 time in UTC; None for null. Raises ValueError saying what is wanted."""
    if value is None:
        return None
    if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
        raise ValueError("must be an RFC 3339 time such as 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is not a time that exists: {error}") from None


def _text(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"must be a text of at most {MAX_TEXT} characters")
    return value


_READERS: Mapping[str, Callable[[object], Any]] = {
    "decision_id": _decision_id,
    "organization_id": _uuid,
    "domain": _optional_name,
    "intent": _optional_name,
    "stage": _stage,
    "actor": _name,
    "target": _name,
    "context": _mapping,
    "scope": _mapping,
    "timestamp": read_timestamp,
    "unstructured_context": _text,
}
