"""YAML and JSON as plain values that still know where each of them was written.

YAML here is that of version 1.2's core schema and nothing beyond: no anchors, aliases, tags or merge keys,
each key a text and there once. `no`, `on` and `12:30` are texts; `true`, `null` and `1.5` are what they look
like. All that is wrong is collected with its line and column; only what cannot be read on from stops at once.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path as File
from typing import Any

import yaml

from mandate.errors import UsageError

Path = tuple[str | int, ...]
"""Number of the document in its stream, then keys and indexes: (0, "domains", 2, "specs", 0, "intent")."""

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 200_000
MAX_DEFECTS = 100
_MOST_DIGITS = 400  # the largest double has 309
_DISCARDED = "\0"
_TOO_DEEP = f"nested deeper than {MAX_DEPTH}"

# libyaml's parser where the wheel has it, ten times as fast; both give the same events and marks.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Control characters, what turns the direction of text around, and halves of characters.
_UNUSABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Mark:
    """Line and column, from 1, in characters."""

    line: int
    column: int


@dataclass(frozen=True)
class Defect:
    """Something wrong at a path. `mark` is where, for what has no path of its own; `key`: it is the key."""

    message: str
    path: Path = ()
    key: bool = False
    mark: Mark | None = None


@dataclass(frozen=True)
class Source:
    """A read file or body: its documents, where everything is, and what was wrong with the writing."""

    name: str
    documents: tuple[Any, ...]
    values: Mapping[Path, Mark] = field(default_factory=dict)
    keys: Mapping[Path, Mark] = field(default_factory=dict)
    defects: tuple[Defect, ...] = ()
    unread: frozenset[Path] = frozenset()

    def mark(self, defect: Defect) -> Mark | None:
        """Where a defect is: its key or value, else the innermost part around it that was written."""
        if defect.mark or not self.values:
            return defect.mark
        if defect.key and defect.path in self.keys:
            return self.keys[defect.path]
        path = defect.path
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Mark(1, 1))

    def located(self, defects: Iterable[Defect]) -> list[dict[str, Any]]:
        """Defects as JSON-able data in the order of the text: file, line, column, pointer, message."""
        found = {(self.mark(defect), defect) for defect in defects if not self._hidden(defect)}
        ordered = sorted(found, key=_position)
        return [_as_dict(self.name, mark, defect) for mark, defect in ordered]

    def _hidden(self, defect: Defect) -> bool:
        """Whether it is only a consequence of something that could not be read."""
        return any(defect.path[:length] in self.unread for length in range(1, len(defect.path) + 1))


class InvalidDocument(UsageError):
    """What was given cannot be meant. `fields["defects"]` has every defect with its place."""

    code = "invalid-document"

    def __init__(self, name: str, defects: Sequence[Mapping[str, Any]], hint: str | None = None) -> None:
        shown = [line(defect) for defect in defects[:MAX_DEFECTS]]
        if len(defects) > MAX_DEFECTS:
            shown.append(f"and {len(defects) - MAX_DEFECTS} more")
        count = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        super().__init__(
            "\n".join([f"{name} has {count}; nothing was changed", *shown]),
            hint=hint or "`mandate apply --schema` prints the format",
            defects=list(defects[:MAX_DEFECTS]),
        )


def line(defect: Mapping[str, Any]) -> str:
    """file:line:column: message."""
    if defect["line"] is None:
        return f"{defect['file']}: {defect['pointer'] or '/'}: {defect['message']}"
    return f"{defect['file']}:{defect['line']}:{defect['column']}: {defect['message']}"


def pointer(path: Path) -> str:
    """The JSON pointer (RFC 6901) of a path inside its document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path[1:])


def _position(found: tuple[Mark | None, Defect]) -> tuple[int, int, str, str]:
    mark, defect = found
    return (mark.line, mark.column, "", defect.message) if mark else (0, 0, str(defect.path), defect.message)


def _as_dict(name: str, mark: Mark | None, defect: Defect) -> dict[str, Any]:
    return {
        "file": name,
        "line": mark.line if mark else None,
        "column": mark.column if mark else None,
        "document": defect.path[0] if defect.path else 0,
        "pointer": pointer(defect.path),
        "message": defect.message,
    }


def read_file(path: File) -> Source:
    """The YAML documents of a file. Raises InvalidDocument when it cannot be read as text or as YAML."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return read_yaml(data, str(path))


def read_yaml(data: bytes, name: str) -> Source:
    """The documents of a YAML stream. Raises InvalidDocument when it cannot be read on."""
    if len(data) > MAX_BYTES:
        raise _stop(name, f"more than {MAX_BYTES // 1024**2} MiB", Mark(1, 1))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        raise _stop(name, "this is not UTF-8", Mark(before.count(b"\n") + 1, column)) from None
    reader = _YamlReader(text, name)
    try:
        return reader.read()
    except yaml.reader.ReaderError as error:
        raise _stop(name, f"a character that YAML does not allow: {error.reason}", _mark_of(text)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        raise _stop(name, f"not YAML: {error.problem or error.context}", place, reader.defects) from None
    except _TooMuch as error:
        raise _stop(name, error.message, error.mark, reader.defects) from None
    finally:
        reader.close()


def _stop(name: str, message: str, mark: Mark | None, before: Sequence[Defect] = ()) -> InvalidDocument:
    return InvalidDocument(name, Source(name, ()).located([*before, Defect(message, mark=mark)]))


_NOT_IN_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _mark_of(text: str) -> Mark:
    """Where the first character is that no YAML may have."""
    found = _NOT_IN_YAML.search(text)
    before = text[: found.start()] if found else ""
    return Mark(before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)


class _TooMuch(Exception):
    """Nesting or size beyond any document that is meant: what it is, and where."""

    def __init__(self, message: str, mark: Mark | None = None) -> None:
        super().__init__(message)
        self.message, self.mark = message, mark


class _YamlReader:
    """Builds values from the parser's events: nothing is ever constructed from a tag or an alias."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._loader = _Loader(text)
        self.values: dict[Path, Mark] = {}
        self._keys: dict[Path, Mark] = {}
        self.defects: list[Defect] = []
        self._unread: set[Path] = set()

    def read(self) -> Source:
        documents: list[Any] = []
        self._loader.get_event()
        while not self._loader.check_event(yaml.StreamEndEvent):
            self._loader.get_event()
            documents.append(self._node((len(documents),)))
            self._loader.get_event()
        return Source(
            self._name,
            tuple(documents),
            self.values,
            self._keys,
            tuple(self.defects),
            frozenset(self._unread),
        )

    def close(self) -> None:
        self._loader.dispose()

    def _node(self, path: Path) -> Any:
        event = self._loader.get_event()
        mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
        self.values[path] = mark
        if len(path) > MAX_DEPTH or len(self.values) > MAX_NODES:
            deep = len(path) > MAX_DEPTH
            raise _TooMuch(_TOO_DEEP if deep else f"more than {MAX_NODES} values", mark)
        if isinstance(event, yaml.AliasEvent):
            self._refuse("aliases (*) are not used here: write it out", mark)
            self._unread.add(path)
            return None
        self._refuse_decoration(event, mark)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path, mark)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._mapping(path)

    def _refuse(self, message: str, mark: Mark) -> None:
        if len(self.defects) <= MAX_DEFECTS:
            self.defects.append(Defect(message, mark=mark))

    def _refuse_decoration(self, event: Any, mark: Mark) -> None:
        if event.anchor is not None:
            self._refuse("anchors (&) are not used here", mark)
        if event.tag is not None:
            self._refuse(f"tags (!) are not used here: {event.tag[:60]}", mark)

    def _sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            items.append(self._node((*path, len(items))))
        self._loader.get_event()
        return items

    def _mapping(self, path: Path) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            key_path = (*path, _DISCARDED)
            merge = _is_merge(self._loader.peek_event())
            key = self._node(key_path)
            mark = self.values[key_path]
            if merge:
                self._refuse("merge keys (<<) are not used here: write it out", mark)
                self._node(key_path)
            elif self._usable(key, entries, (*path, str(key)), mark):
                self._keys[*path, key] = mark
                entries[key] = self._node((*path, key))
            else:
                self._node(key_path)
        self._loader.get_event()
        return entries

    def _usable(self, key: Any, entries: Mapping[str, Any], path: Path, mark: Mark) -> bool:
        if not isinstance(key, str):
            self._refuse("a key must be a text: quote it", mark)
            return False
        if key in entries:
            self._refuse(f"{key} is here twice, first in line {self._keys[path].line}", mark)
            return False
        return True

    def _scalar(self, event: Any, path: Path, mark: Mark) -> Any:
        text: str = event.value
        if not event.style and event.tag is None:  # libyaml says '' where Python's says None
            value, wrong = resolve(text)
        else:
            value, wrong = text, None
        wrong = wrong or _unusable(value)
        if wrong:
            self._refuse(wrong, mark)
            self._unread.add(path)
        # Messages quote it: what a terminal would obey must not get that far.
        return _UNUSABLE.sub("?", value) if isinstance(value, str) else value


def _is_merge(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and not event.style and event.value == "<<"


def resolve(text: str) -> tuple[Any, str | None]:
    """What an unquoted scalar means in YAML 1.2's core schema, and what is wrong with it."""
    if text in _WORDS:
        return _WORDS[text], None
    if _NOT_A_NUMBER.fullmatch(text):
        return text, f"{text} is no number that can be compared: quote it if it is a text"
    if not _NUMBER.fullmatch(text):
        return text, None
    digits = text.lstrip("+-")
    if re.match("0[0-9]", digits):
        return text, f"{text[:40]} begins with a zero: quote it if it is a text"
    return _number(text)


def _number(text: str) -> tuple[Any, str | None]:
    wrong = f"{text[:40]} has more digits than a number keeps: quote it if it is a text"
    if len(text) > _MOST_DIGITS:
        return text, wrong
    if _INTEGER.fullmatch(text):
        return int(text), None
    value = float(text)
    try:
        exact = math.isfinite(value) and Decimal(repr(value)) == Decimal(text)
    except InvalidOperation:
        exact = False
    return (value, None) if exact else (text, wrong)


def _unusable(value: Any) -> str | None:
    """Why a text cannot be stored or shown, or None."""
    if isinstance(value, str) and (found := _UNUSABLE.search(value)):
        return f"the character U+{ord(found[0]):04X} is not allowed"
    return None


class _Object(list[tuple[str, Any]]):
    """A JSON object before its keys are known to be different."""


def read_json(data: bytes, name: str = "body") -> Source:
    """One JSON document, with the same limits. Raises InvalidDocument when it is not JSON."""
    if data.startswith(BOM_UTF8):
        raise _stop(name, "it begins with a byte order mark (EF BB BF): JSON is sent without one", None)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_Object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_kept,
        )
    except (ValueError, RecursionError):
        raise _stop(name, "this is not JSON", None) from None
    defects: list[Defect] = []
    try:
        document = _plain(value, (0,), defects)
    except _TooMuch as error:
        raise _stop(name, error.message, None) from None
    return Source(name, (document,), defects=tuple(defects))


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


def _integer(text: str) -> Any:
    # Beyond this Python itself refuses, and no comparison is meant.
    return int(text) if len(text) <= _MOST_DIGITS else float(text)


def _kept(text: str) -> float | Decimal:
    """The float that is written; where none is, what is written."""
    value = float(text)
    try:
        written = Decimal(text)
    except InvalidOperation:
        return math.inf
    return value if not math.isfinite(value) or Decimal(repr(value)) == written else written


def _plain(value: Any, path: Path, defects: list[Defect]) -> Any:
    if len(path) > MAX_DEPTH:
        raise _TooMuch(_TOO_DEEP)
    if isinstance(value, _Object):
        return _entries(value, path, defects)
    if isinstance(value, list):
        return [_plain(item, (*path, index), defects) for index, item in enumerate(value)]
    if isinstance(value, Decimal):
        defects.append(Defect(f"{str(value)[:40]} has more digits than a number keeps", path))
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        defects.append(Defect("no number that can be compared", path))
    if wrong := _unusable(value):
        defects.append(Defect(wrong, path))
    return _UNUSABLE.sub("?", value) if isinstance(value, str) else value


def _entries(pairs: _Object, path: Path, defects: list[Defect]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            defects.append(Defect(f"{key[:60]} is here twice", (*path, key)))
        elif wrong := _unusable(key):
            defects.append(Defect(f"a key with a bad character: {wrong}", path))
        else:
            entries[key] = _plain(value, (*path, key), defects)
    return entries
