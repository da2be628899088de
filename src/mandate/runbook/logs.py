"""The guide's `grep -i "error\\|exception\\|fail"` over log files, but only over what a run appended.

`mark` remembers how far each file reached; `scan` reads on from there, through rotation. Without marks, lines
are told old from new by the timestamps that they carry.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

PATTERN = re.compile(rb"error|exception|fail", re.IGNORECASE)
KEPT_FINDINGS = 200
_LINE_BYTES = 65_536
_SHOWN_CHARACTERS = 300
_DIGEST_BYTES = 256
_CHUNK = 1 << 20
_TIME_KEYS = ("timestamp", "time", "ts", "@timestamp", "asctime", "datetime")
_LEADING_TIME = re.compile(r"\W{0,2}(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?)")


@dataclass(frozen=True)
class Mark:
    """How far a file reached: bytes, inode, and a digest of the bytes just before that place."""

    size: int
    inode: int
    digest: str


@dataclass(frozen=True)
class Finding:
    """One suspicious line; `line` counts from 1 in `file`."""

    file: str
    line: int
    text: str


@dataclass
class Scan:
    """What was read. `found` counts every finding, `findings` keeps the first 200."""

    files: list[str] = field(default_factory=list)
    lines: int = 0
    found: int = 0
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def mark(patterns: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Mark every file that matches, as JSON-able data by absolute path. Unreadable files are left out."""
    marks: dict[str, dict[str, Any]] = {}
    for path in _matching(patterns):
        try:
            with path.open("rb") as source:
                status = os.fstat(source.fileno())
                digest = _digest(source, status.st_size)
        except OSError:
            continue
        marks[str(path)] = asdict(Mark(status.st_size, status.st_ino, digest))
    return marks


def scan(
    patterns: Sequence[str],
    marks: Mapping[str, Mapping[str, Any]] | None = None,
    since: datetime | None = None,
) -> Scan:
    """Read what was appended after `marks`; without marks, the lines that are not older than `since`.

    A file that has no mark while others were marked is new since, and is read whole. What could not be read
    (nothing matches, no permission, rotated out of sight) is a warning: silence would look like a pass.
    """
    result = Scan()
    for pattern in patterns:
        if not _matching([pattern]):
            result.warnings.append(f"no log file matches {pattern}: nothing of it was scanned")
    pending = {name: Mark(**values) for name, values in (marks or {}).items()}
    paths = _matching(patterns)
    for path in paths:
        _read_file(path, pending, since if marks is None else None, result)
    for name, start in pending.items():
        if not _read_rotated(Path(name), start, paths, result):
            result.warnings.append(
                f"{name} was rotated or truncated meanwhile, and what it held after byte {start.size:,}"
                " is not to be found"
            )
    return result


def _matching(patterns: Iterable[str]) -> list[Path]:
    """Regular files that match, sorted, each once."""
    found: set[Path] = set()
    for pattern in patterns:
        whole = Path(pattern).expanduser().absolute()
        found.update(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))
    return sorted(path for path in found if path.is_file())


def _read_file(path: Path, pending: dict[str, Mark], since: datetime | None, result: Scan) -> None:
    """Read one file from its mark, which is taken out of `pending`, or whole when it has none."""
    try:
        with path.open("rb") as source:
            if since is not None and os.fstat(source.fileno()).st_mtime < since.timestamp():
                result.files.append(str(path))
                return
            name = _mark_of(path, source, pending)
            offset = pending.pop(name).size if name else 0
            _read_from(source, str(path), offset, since, result)
    except OSError as error:
        pending.pop(str(path), None)
        result.warnings.append(f"{path} could not be read: {error.strerror}")


def _mark_of(path: Path, source: IO[bytes], pending: Mapping[str, Mark]) -> str | None:
    """Whose mark this file carries on: its own, or that of a file which rotation has renamed to this one."""
    status = os.fstat(source.fileno())
    for name in sorted(pending, key=lambda name: name != str(path)):
        start = pending[name]
        same_place = name == str(path) or status.st_ino == start.inode
        if same_place and _continues(source, start):
            return name
    return None


def _read_rotated(path: Path, start: Mark, seen: Sequence[Path], result: Scan) -> bool:
    """Find the marked file beside `path`, renamed or copied by rotation, and read its end."""
    for candidate in sorted(path.parent.glob(f"{glob.escape(path.stem)}*")):
        try:
            with candidate.open("rb") as source:
                same = os.fstat(source.fileno()).st_ino == start.inode or start.size > 0
                if candidate not in seen and same and _continues(source, start):
                    _read_from(source, str(candidate), start.size, None, result)
                    return True
        except OSError:
            continue
    return False


def _continues(source: IO[bytes], start: Mark) -> bool:
    size = os.fstat(source.fileno()).st_size
    return size >= start.size and _digest(source, start.size) == start.digest


def _read_from(source: IO[bytes], name: str, offset: int, since: datetime | None, result: Scan) -> None:
    result.files.append(name)
    number = _count_lines(source, offset)
    source.seek(offset)
    recent = begins = True
    # A line longer than 64 KiB is looked at in parts, so that memory stays flat.
    while part := source.readline(_LINE_BYTES):
        number += begins
        if begins and since is not None:
            at = _time_of(part)
            # A line without a time, such as one of a traceback, belongs to the one before it.
            recent = recent if at is None else at >= since
        if recent:
            _look_at(part, Finding(name, number, ""), begins, result)
        begins = part.endswith(b"\n")


def _look_at(part: bytes, where: Finding, begins: bool, result: Scan) -> None:
    result.lines += begins
    if not PATTERN.search(part):
        return
    result.found += 1
    if len(result.findings) < KEPT_FINDINGS:
        result.findings.append(Finding(where.file, where.line, _shown(part)))


def _count_lines(source: IO[bytes], offset: int) -> int:
    source.seek(0)
    count, left = 0, offset
    while left > 0 and (chunk := source.read(min(_CHUNK, left))):
        count += chunk.count(b"\n")
        left -= len(chunk)
    return count


def _digest(source: IO[bytes], offset: int) -> str:
    source.seek(max(0, offset - _DIGEST_BYTES))
    return hashlib.sha256(source.read(min(_DIGEST_BYTES, offset))).hexdigest()[:16]


def _time_of(line: bytes) -> datetime | None:
    """The time of a line: a key of its JSON object, or ISO 8601 at its beginning. Without a zone: UTC."""
    text = line[:_LINE_BYTES].decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            return None
        values = (record.get(key) for key in _TIME_KEYS)
        return next((at for value in values if (at := _parse(value)) is not None), None)
    found = _LEADING_TIME.match(text)
    return _parse(found[1].replace(",", ".")) if found else None


def _parse(value: object) -> datetime | None:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        at = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").strip()
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
