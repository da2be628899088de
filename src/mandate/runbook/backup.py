"""A backup that is proven before anybody calls it one.

Dump and fingerprints see the same snapshot. The archive is read through, restored into a scratch
database, and what that holds compared; only then does it get its name.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from mandate.errors import (
    AuthenticationFailed,
    BackupFailed,
    DatabaseError,
    DiskFull,
    MandateError,
    ProgramError,
)
from mandate.postgres import database, dump
from mandate.postgres.connection import Session
from mandate.progress import Reporter, Silent
from mandate.rekey.fingerprint import Fingerprint, one_snapshot, tables
from mandate.runbook import manifest, migrations, scratch, space
from mandate.runbook.manifest import Description
from mandate.runbook.scratch import Copy, Expected, Work

PARTIAL = ".partial"

_FULL = "No space left on device"

# An archive of this schema's text and JSON is a fifth to a third of its tables; half leaves a margin.
_ARCHIVE_SHARE = 0.5


@dataclass(frozen=True)
class Backup:
    """A proven backup, and the scratch database that it was proven by."""

    path: Path
    manifest: Path
    description: Description
    copy: Copy
    dump_seconds: float
    verify_seconds: float

    def evidence(self) -> dict[str, Any]:
        """As runbook.record says, plus manifest, format, database and schema_version."""
        known = self.description
        return {
            "file": self.path.name,
            "manifest": self.manifest.name,
            "format": known.format,
            "bytes": known.bytes,
            "sha256": known.sha256,
            "database": known.database,
            "schema_version": known.schema_version,
            "dump_seconds": round(self.dump_seconds, 3),
            "verify_seconds": round(self.verify_seconds, 3),
            "restore_seconds": round(self.copy.restore_seconds, 3),
            "scratch_database": self.copy.name,
            "entries": known.entries,
            "tables": [
                {
                    "table": table,
                    "rows": Fingerprint.parse(text).rows,
                    "fingerprint": text,
                    "restored_fingerprint": str(self.copy.tables[table]),
                }
                for table, text in sorted(known.tables.items())
            ],
        }


def take(work: Work, format: dump.Format, *, manifest_name: str | None = None) -> Backup:
    """Back up the target into the work's directory and prove it; the scratch database is left there.

    The file is named after the time, the manifest <file>.sha256 unless `manifest_name` says otherwise.
    Raises BackupFailed, and then no file that looks like a backup is left.
    """
    at = datetime.now()
    final = work.directory / f"mandate_backup_{at:%Y%m%d_%H%M%S}.sql"
    if final.exists():
        raise BackupFailed(f"{final} is there already", hint="try again in a second")
    partial = final.with_name(final.name + PARTIAL)
    name = scratch.name_for(work.run_id)
    with _failing(work, partial, name), work.maintenance() as keeper:
        _clean(work, keeper, name)
        taken = _take(work, partial, format)
        read = _read(taken, partial, work.reporter)
        copy = _prove(work, name, partial, taken)
        proof = _Proof(format, at, taken, read, copy)
        return _finish(work, final, partial, proof, manifest_name or f"{final.name}.sha256")


@dataclass(frozen=True)
class _Taken:
    """A dump, and what the source held in the same snapshot."""

    tool: dump.Client
    expected: Expected
    schema: frozenset[str]
    schema_version: int | None
    server_version: int
    sequences_before: Mapping[str, int | None]
    sequences_after: Mapping[str, int | None]
    dump_seconds: float


@dataclass(frozen=True)
class _Read:
    """What reading the archive showed."""

    entries: int
    bytes: int
    digests: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class _Proof:
    """Everything that was found out about one archive."""

    format: dump.Format
    at: datetime
    taken: _Taken
    read: _Read
    copy: Copy


def verify(path: Path, manifest_path: Path | None = None, *, reporter: Reporter | None = None) -> Description:
    """Check every byte of a backup against its manifest, then read it as a restore would.

    `path` may be a link. Raises BackupFailed.
    """
    real = path.resolve()
    watching = reporter or Silent()
    description = manifest.check(real, manifest_path or manifest.find(real), watching)
    try:
        tool = dump.client(description.server_version // 10000)
        entries = dump.entries(tool, real)
        dump.read_through(tool, real, watching)
    except ProgramError as error:
        raise BackupFailed(f"{path} cannot be read: {error.message}", hint=error.hint) from error
    if entries != description.entries:
        raise BackupFailed(f"{path} lists {entries} objects instead of {description.entries}")
    return description


def archive(path: Path, manifest_path: Path, directory: Path) -> Path:
    """Move a backup with its description and manifest to `directory`; its new path.

    The manifest is called <file>.sha256 there. Raises BackupFailed rather than replace a file.
    """
    described = manifest_path.with_name(f"{path.name}.json")
    moves = {
        described: directory / described.name,
        manifest_path: directory / f"{path.name}.sha256",
        path: directory / path.name,
    }
    directory.mkdir(parents=True, exist_ok=True)
    for source, place in moves.items():
        if source.exists() and place.exists():
            raise BackupFailed(f"{place} is there already", hint="move it away, then run again")
    for source, place in moves.items():
        if source.exists():
            shutil.move(source, place)
    return directory / path.name


def _clean(work: Work, keeper: Session, name: str) -> None:
    """Leftovers of dead runs go, the disks have room, and the scratch is ours."""
    for dropped in scratch.sweep(keeper, work):
        work.reporter.line(f"dropped {dropped}, left behind by a run that died")
    if not work.run_id.startswith(scratch.STANDALONE):
        for left in work.directory.glob(f"mandate_backup_*{PARTIAL}"):
            dump.remove(left)
    with work.session() as session:
        archive_bytes = sum(row["bytes"] or 0 for row in tables(session)) * _ARCHIVE_SHARE
        space.require(
            [
                space.Need(work.directory, int(archive_bytes), "the backup"),
                *space.for_database(session, work.target, "the scratch database that proves it"),
            ]
        )
    scratch.try_claim(keeper, name)


def _take(work: Work, partial: Path, format: dump.Format) -> _Taken:
    with work.session() as session, one_snapshot(session) as snapshot:
        tool = dump.client(session.server_version // 10000)
        expected = _expected(work, session)
        before = _sequences(session)
        started = monotonic()
        dump.dump(
            tool,
            work.target,
            partial,
            snapshot=snapshot,
            tables=_leaf_bytes(session),
            format=format,
            jobs=work.jobs,
            reporter=work.reporter,
        )
        return _Taken(
            tool=tool,
            expected=expected,
            schema=dump.schema(tool, work.target, snapshot),
            schema_version=migrations.schema_version(session),
            server_version=session.server_version,
            sequences_before=before,
            sequences_after=_sequences(session),
            dump_seconds=monotonic() - started,
        )


def _expected(work: Work, session: Session) -> Expected:
    name = work.target.database
    with work.helpers() as helpers:
        found = scratch.measure(session, helpers, work.reporter, "fingerprint the tables")
    return Expected(found, database.properties(session, name), database.size(session, name))


def _leaf_bytes(session: Session) -> dict[str, int]:
    return {f"{row['leaf_schema']}.{row['leaf_relation']}": row["bytes"] or 0 for row in tables(session)}


def _sequences(session: Session) -> dict[str, int | None]:
    """Last values; they are outside every snapshot."""
    rows = session.rows(
        "SELECT pg_catalog.format('%s.%s', schemaname, sequencename) AS name, last_value"
        " FROM pg_catalog.pg_sequences ORDER BY 1"
    )
    return {row["name"]: row["last_value"] for row in rows}


def _read(taken: _Taken, partial: Path, reporter: Reporter) -> _Read:
    started = monotonic()
    entries = dump.entries(taken.tool, partial)
    dump.read_through(taken.tool, partial, reporter)
    found = manifest.digests(partial, reporter)
    return _Read(entries, dump.size(partial), found, monotonic() - started)


def _prove(work: Work, name: str, partial: Path, taken: _Taken) -> Copy:
    copy = scratch.restore(work, taken.tool, partial, name, scratch.SCRATCH, taken.expected)
    _require_same_schema(taken.schema, dump.schema(taken.tool, work.target.with_database(name)))
    with work.session(name) as session:
        _require_same_sequences(taken, _sequences(session))
    return copy


def _require_same_schema(expected: frozenset[str], found: frozenset[str]) -> None:
    if expected != found:
        named = sorted({re.split(r"; Schema: ", text)[0] for text in expected ^ found})
        raise BackupFailed(
            f"the restored backup defines objects differently: {'; '.join(named[:5])}", objects=named
        )


def _require_same_sequences(taken: _Taken, found: Mapping[str, int | None]) -> None:
    """A sequence is dumped at some moment of the dump: its value must lie between those around it."""
    for name, before in taken.sequences_before.items():
        after = taken.sequences_after.get(name)
        low, high = sorted((before or 0, after or 0))
        if name not in found or not low <= (found[name] or 0) <= high:
            raise BackupFailed(
                f"the restored sequence {name} is at {found.get(name)} instead of {before}", sequence=name
            )


def _finish(work: Work, final: Path, partial: Path, proof: _Proof, manifest_name: str) -> Backup:
    """Everything is known: write it down, and give the archive its name last."""
    taken, read = proof.taken, proof.read
    named = {name.replace(partial.name, final.name, 1): digest for name, digest in read.digests.items()}
    description = Description(
        file=final.name,
        format=proof.format,
        bytes=read.bytes,
        sha256=manifest.whole(named, directory=partial.is_dir()),
        taken_at=proof.at.astimezone().isoformat(timespec="seconds"),
        database=work.target.database,
        database_bytes=taken.expected.database_bytes,
        server_version=taken.server_version,
        schema_version=taken.schema_version,
        entries=read.entries,
        restore_seconds=round(proof.copy.restore_seconds, 3),
        tables={table: str(found) for table, found in taken.expected.tables.items()},
        sequences=taken.sequences_before,
        properties=taken.expected.properties,
    )
    written = manifest.write(work.directory, description, named, manifest_name)
    partial.rename(final)
    dump.sync(final)
    return Backup(final, written, description, proof.copy, taken.dump_seconds, read.seconds)


@contextmanager
def _failing(work: Work, partial: Path, name: str) -> Iterator[None]:
    """Whatever goes wrong: nothing is left behind, and our errors end as BackupFailed."""
    try:
        yield
    except BaseException as error:
        _remove_traces(work, partial, name)
        if isinstance(error, DatabaseError | ProgramError | OSError):
            raise _failure(work, error) from error
        raise


def _remove_traces(work: Work, partial: Path, name: str) -> None:
    dump.remove(partial)
    # When the server is away the scratch is found by its mark and dropped at the next backup.
    with suppress(DatabaseError), work.maintenance() as session:
        mark = database.marks(session).get(name)
        if mark is not None and mark.run_id == work.run_id:
            database.drop(session, name)


def _failure(work: Work, error: DatabaseError | ProgramError | OSError) -> MandateError:
    if isinstance(error, AuthenticationFailed):
        return error
    text = error.strerror or str(error) if isinstance(error, OSError) else error.message
    if isinstance(error, DiskFull) or (_FULL in text and "ERROR:" in text):
        return BackupFailed(
            f"the server's disk is full: {text}", hint="free disk space there, then run again"
        )
    if _FULL in text:
        return BackupFailed(
            f"disk full while the backup was written to {work.directory}: {text}",
            hint=f"free disk space below {work.directory}, then run again; the partial file was removed",
            place=str(work.directory),
        )
    hint = getattr(error, "hint", None) or "the database was not changed; run again when this is mended"
    return BackupFailed(f"the backup failed: {text}", hint=hint)


def summary(taken: Backup) -> str:
    """One line for a person."""
    known = taken.description
    rows = sum(found.rows for found in taken.copy.tables.values())
    return (
        f"{known.bytes / (1 << 20):,.1f} MiB in {taken.dump_seconds:.1f} s; restored in"
        f" {taken.copy.restore_seconds:.1f} s, {rows:,} rows of {len(known.tables)} tables equal"
    )
