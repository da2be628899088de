"""Whether the disks have room for what is about to be written, asked before it is written."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mandate.errors import BackupFailed
from mandate.postgres.connection import Session, Target

_MIB = 1 << 20
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Need:
    """So many bytes below `place`, and what for."""

    place: Path
    bytes: int
    what: str


def require(needs: Sequence[Need]) -> None:
    """Raise BackupFailed when a file system has less free than is needed on it, naming both figures."""
    by_device: dict[int, list[Need]] = defaultdict(list)
    for need in needs:
        by_device[need.place.stat().st_dev].append(need)
    for shared in by_device.values():
        have = shutil.disk_usage(shared[0].place).free
        need_bytes = sum(need.bytes for need in shared)
        if have < need_bytes:
            raise _too_little(shared, need_bytes, have)


def _too_little(needs: Sequence[Need], need_bytes: int, have: int) -> BackupFailed:
    what = " and ".join(need.what for need in needs)
    places = " and ".join(dict.fromkeys(str(need.place) for need in needs))
    return BackupFailed(
        f"not enough disk for {what}: about {_text(need_bytes)} needed at {places}, {_text(have)} free",
        hint="free disk space there, or choose another place for the backup (--output, run.directory)",
        need_bytes=need_bytes,
        have_bytes=have,
        place=places,
    )


def _text(size: int) -> str:
    return f"{-(-size // _MIB):,} MiB"


def server_directory(session: Session, target: Target) -> Path | None:
    """Where the server keeps this database, when that is on this machine and we may know."""
    host = target.parameters.get("host", "")
    if host and not host.startswith("/") and host not in _LOCAL_HOSTS:
        return None
    place = session.value(
        "SELECT COALESCE(NULLIF(pg_catalog.pg_tablespace_location(d.dattablespace), ''), s.setting)"
        " FROM pg_catalog.pg_database AS d"
        " LEFT JOIN pg_catalog.pg_settings AS s ON s.name = 'data_directory'"
        " WHERE d.datname = current_database()"
    )
    try:
        return Path(place) if place and Path(place).is_dir() else None
    except PermissionError:
        return None


def for_database(session: Session, target: Target, what: str) -> list[Need]:
    """What a second copy of the target database needs on the server's disk, its WAL included."""
    place = server_directory(session, target)
    if place is None:
        return []
    size = session.value("SELECT pg_catalog.pg_database_size(current_database())")
    wal = session.value("SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size'))")
    return [Need(place, size + min(size, wal), what)]
