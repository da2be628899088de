"""Where a replay stands, on disk: everything up to its position is counted and told, nothing after it.

The lines told so far lie beside the state, in a file that may be longer than the state says: what a killed
process wrote after its last checkpoint is cut off and made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from mandate.controlplane.replay.records import BEFORE_ALL, Position, Selection
from mandate.controlplane.replay.totals import Totals
from mandate.errors import RunLocked, UsageError

_SCHEMA = "mandate.replay-state/1"
_BLOCK = 1 << 20


class StateError(UsageError):
    """A state file that cannot be used: another replay's, unreadable, or not beside its lines."""

    code = "replay-state"


@dataclass(frozen=True)
class Progress:
    """How far a replay is. `seconds`: how long all its runs together took."""

    selection: Selection
    position: Position = BEFORE_ALL
    seconds: float = 0.0


class Journal:
    """The lines told so far, their totals and, where there is a state file, its checkpoints."""

    def __init__(self, spool: IO[bytes], state: Path | None, subject: Mapping[str, Any]) -> None:
        self.totals = Totals()
        self.progress: Progress | None = None
        self._spool = spool
        self._state = state
        self._subject = dict(subject)
        self._digest = hashlib.blake2b()
        self._bytes = 0

    def resume(self) -> None:
        """Go to the last checkpoint, if there is one. Raises StateError."""
        if self._state is None or not self._state.exists():
            self._spool.truncate(0)
            return
        document = _read(self._state)
        if document.get("subject") != self._subject:
            raise _another(self._state, document.get("subject"), self._subject)
        try:
            self.progress = Progress(
                _selection(document["selection"]), Position(*document["position"]), document["seconds"]
            )
            self.totals = Totals.from_dict(document["totals"])
            self._bytes = int(document["bytes"])
            expected = str(document["blake2b"])
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(self._state, f"it lacks {error}") from error
        self._take_up(self._state, expected)

    def _take_up(self, state: Path, expected: str) -> None:
        self._spool.seek(0)
        left = self._bytes
        while left and (block := self._spool.read(min(left, _BLOCK))):
            self._digest.update(block)
            left -= len(block)
        if left or self._digest.hexdigest() != expected:
            raise _unusable(state, f"{_lines_path(state)} is not what it was")
        self._spool.truncate()

    def begin(self, selection: Selection) -> Progress:
        """The first checkpoint: what is replayed is decided now and stays."""
        self.progress = Progress(selection)
        self._write(self.progress)
        return self.progress

    def checkpoint(self, position: Position, seconds: float, part: Totals, lines: bytes) -> None:
        """Add what is new up to `position`."""
        assert self.progress is not None
        self._spool.write(lines)
        self._digest.update(lines)
        self._bytes += len(lines)
        self.totals.add(part)
        self.progress = replace(self.progress, position=position, seconds=seconds)
        self._write(self.progress)

    def _write(self, progress: Progress) -> None:
        if self._state is None:
            return
        self._spool.flush()
        document = {
            "schema": _SCHEMA,
            "subject": self._subject,
            "selection": asdict(progress.selection),
            "position": progress.position,
            "seconds": progress.seconds,
            "totals": self.totals.as_dict(),
            "bytes": self._bytes,
            "blake2b": self._digest.hexdigest(),
        }
        write_atomically(self._state, json.dumps(document, indent=1).encode())

    def lines(self) -> Iterator[dict[str, Any]]:
        """All that was told, in order of time."""
        self._spool.flush()
        self._spool.seek(0)
        for line in self._spool:
            yield json.loads(line)

    def finish(self) -> None:
        """The replay is done and its result is where it belongs: the state has served."""
        if self._state is not None:
            self._state.unlink(missing_ok=True)
            _lines_path(self._state).unlink(missing_ok=True)


@contextmanager
def journal(state: Path | None, subject: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of a replay of `subject`, at its last checkpoint. Raises StateError, RunLocked."""
    if state is None:
        with tempfile.TemporaryFile(prefix="mandate-replay-") as spool:
            yield Journal(spool, None, subject)
        return
    try:
        opened = _lines_path(state).open("a+b")
    except OSError as error:
        raise StateError(
            f"--state {state}: {error.strerror}", hint="a file in a directory you may write"
        ) from error
    with opened as spool:
        try:
            fcntl.flock(spool, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(f"another replay is at work with --state {state}") from None
        found = Journal(spool, state, subject)
        found.resume()
        yield found


def write_atomically(path: Path, content: bytes) -> None:
    """The whole file or what was there before. Raises UsageError."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _lines_path(state: Path) -> Path:
    return state.with_name(f"{state.name}.lines")


def _read(state: Path) -> dict[str, Any]:
    try:
        document = json.loads(state.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(state, str(error)) from error
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise _unusable(state, "it is not the state of a replay")
    return document


def _selection(data: Mapping[str, Any]) -> Selection:
    domains = data["domains"]
    return Selection(**{**data, "domains": domains and tuple(tuple(pair) for pair in domains)})


def _unusable(state: Path, why: str) -> StateError:
    return StateError(
        f"--state {state} cannot be resumed: {why}", hint="remove it to begin anew, or name another file"
    )


def _another(state: Path, theirs: object, ours: Mapping[str, Any]) -> StateError:
    there = theirs if isinstance(theirs, dict) else {}
    differing = [name for name in ours if there.get(name) != ours[name]]
    return _unusable(state, f"it is of another replay ({', '.join(differing) or 'of another kind'} differ)")
