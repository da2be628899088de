"""What is known of a backup, kept beside it: its description, and digests for `sha256sum -c`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mandate.errors import BackupFailed
from mandate.postgres import dump
from mandate.progress import Reporter, Task

NAME = "manifest.sha256"

_PIECE = 1 << 20


@dataclass(frozen=True)
class Description:
    """A proven backup: what it was taken of, and the fingerprints (as text) of what a restore must give.

    `sha256` is that of the archive; of a directory archive, that of its files' lines in the manifest.
    `properties` are those of mandate.postgres.database; `sequences` their last values, None when unused.
    """

    file: str
    format: str
    bytes: int
    sha256: str
    taken_at: str
    database: str
    database_bytes: int
    server_version: int
    schema_version: int | None
    entries: int
    restore_seconds: float
    tables: Mapping[str, str]
    sequences: Mapping[str, int | None]
    properties: Mapping[str, Any]


def digests(path: Path, reporter: Reporter) -> dict[str, str]:
    """sha256 of each file of an archive, by name relative to the archive's directory."""
    with reporter.task("sha256", total=dump.size(path), unit="bytes") as task:
        done = 0
        found = {}
        for file in dump.files(path):
            found[str(file.relative_to(path.parent))] = _sha256(file, task, done)
            done += file.stat().st_size
    return found


def _sha256(file: Path, task: Task | None = None, done: int = 0) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while piece := source.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            if task is not None:
                task.update(done)
    return digest.hexdigest()


def whole(found: Mapping[str, str], *, directory: bool) -> str:
    """One digest for an archive, see Description.sha256."""
    if directory:
        return hashlib.sha256(_lines(found).encode()).hexdigest()
    return next(iter(found.values()))


def _lines(found: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))


def write(directory: Path, description: Description, found: Mapping[str, str], name: str) -> Path:
    """Write <file>.json, and the manifest over it and the archive; the path of the manifest."""
    described = directory / f"{description.file}.json"
    described.write_text(json.dumps(asdict(description), indent=1, ensure_ascii=False) + "\n", "utf-8")
    manifest = directory / name
    manifest.write_text(_lines({**found, described.name: _sha256(described)}), "utf-8")
    dump.sync(described)
    dump.sync(manifest)
    return manifest


def find(path: Path) -> Path:
    """The manifest of an archive: beside it, <file>.sha256 or manifest.sha256. Raises BackupFailed."""
    for candidate in (path.with_name(path.name + ".sha256"), path.with_name(NAME)):
        if candidate.is_file():
            return candidate
    raise BackupFailed(
        f"there is no manifest beside {path}",
        hint=f"without {NAME} nobody can tell whether the backup is what was proven; say where it is",
    )


def check(path: Path, manifest: Path, reporter: Reporter) -> Description:
    """The description of an archive whose every byte is what the manifest says. Raises BackupFailed."""
    if not path.exists():
        raise BackupFailed(f"the backup {path} is gone", hint="find it, put it back, then try again")
    recorded = _read(manifest)
    description = _describe(path, manifest, recorded)
    if (bytes_now := dump.size(path)) != description.bytes:
        raise _altered(path, f"it has {bytes_now:,} bytes, the proven one had {description.bytes:,}")
    found = digests(path, reporter)
    expected = {
        name: digest
        for name, digest in recorded.items()
        if name == path.name or name.startswith(f"{path.name}/")
    }
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise _altered(path, f"the sha256 of {name} differs")
    if whole(found, directory=path.is_dir()) != description.sha256:
        raise _altered(path, "its sha256 is not the one in its description")
    return description


def _altered(path: Path, why: str) -> BackupFailed:
    return BackupFailed(
        f"{path} is not the backup that was proven: {why}",
        hint="do not restore it; use another copy or an older backup",
        file=str(path),
    )


def _read(manifest: Path) -> dict[str, str]:
    try:
        lines = manifest.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BackupFailed(f"the manifest {manifest} cannot be read: {error}") from None
    pairs = [line.split("  ", 1) for line in lines if line.strip()]
    if not pairs or any(len(pair) != 2 or len(pair[0]) != 64 for pair in pairs):
        raise BackupFailed(f"{manifest} is not a manifest of sha256 sums")
    return {name: digest for digest, name in pairs}


def _describe(path: Path, manifest: Path, recorded: Mapping[str, str]) -> Description:
    described = manifest.with_name(f"{path.name}.json")
    if described.name not in recorded:
        raise BackupFailed(
            f"{manifest} says nothing of {path.name}", hint="was it renamed? give it its name back"
        )
    try:
        if _sha256(described) != recorded[described.name]:
            raise _altered(path, f"the sha256 of {described.name} differs")
        return Description(**json.loads(described.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BackupFailed(f"the description {described} cannot be read: {error}") from None
