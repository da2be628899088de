"""Where a server keeps its files, and how much is free there, when that can be known from here."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from mandate.postgres.connection import Session, Target

_LOCAL_HOSTS = ("", "localhost", "127.0.0.1", "::1")

WAL = "pg_wal"


@dataclass(frozen=True)
class Volume:
    """A file system of the server. `free` in bytes; None: not known from here, `why` says why."""

    tablespaces: tuple[str, ...]
    path: str | None
    free: int | None
    why: str | None = None
    device: int | None = None


def volumes(session: Session, target: Target, tablespaces: set[str | None]) -> list[Volume]:
    """The file systems that hold these tablespaces, each once. None is the database's own, WAL is pg_wal.

    Tablespaces whose place is not known from here count as file systems of their own.
    """
    here = _not_here(session, target)
    found: list[Volume] = []
    for name in sorted(tablespaces, key=lambda name: (name is not None, name)):
        made = _volume(session, name, here)
        same = next((each for each in found if made.device is not None and each.device == made.device), None)
        if same is None:
            found.append(made)
        else:
            merged = Volume((*same.tablespaces, *made.tablespaces), same.path, same.free, None, same.device)
            found[found.index(same)] = merged
    return found


def default_tablespace(session: Session) -> str:
    """The name of the tablespace that the database's objects are in when they name none."""
    name: str = session.value(
        "SELECT t.spcname FROM pg_catalog.pg_database AS d"
        " JOIN pg_catalog.pg_tablespace AS t ON t.oid = d.dattablespace WHERE d.datname = current_database()"
    )
    return name


def _volume(session: Session, name: str | None, not_here: str | None) -> Volume:
    shown = default_tablespace(session) if name is None else name
    if not_here is not None:
        return Volume((shown,), None, None, not_here)
    path = _path(session, shown)
    if path is None:
        why = "this role may not know its place (GRANT pg_read_all_settings)"
        return Volume((shown,), None, None, why)
    try:
        return Volume((shown,), str(path), shutil.disk_usage(path).free, None, path.stat().st_dev)
    except OSError as error:
        return Volume((shown,), str(path), None, f"{path}: {error.strerror}")


def _path(session: Session, name: str) -> Path | None:
    """The directory of a tablespace, or of the WAL. None: not told."""
    place = session.value(
        "SELECT nullif(pg_catalog.pg_tablespace_location(oid), '') FROM pg_catalog.pg_tablespace"
        " WHERE spcname = %s",
        (name,),
    )
    if place:
        return Path(place)
    data = session.value("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'")
    if not data:
        return None
    return _wal(Path(data)) if name == WAL else Path(data)


def _wal(data: Path) -> Path:
    """pg_wal may be a link to another disk; who may not look takes the data directory for it."""
    try:
        return (data / WAL).resolve(strict=True)
    except OSError:
        return data


def _not_here(session: Session, target: Target) -> str | None:
    """Why the server's files cannot be on this machine; None when they are.

    A local port may be a tunnel or a container's: the process that serves the session has to be here.
    """
    host = target.parameters.get("host", "")
    if not host.startswith("/") and (target.parameters.get("hostaddr") or host) not in _LOCAL_HOSTS:
        return "the server is on another host"
    try:
        name = psutil.Process(session.pid).name()
    except psutil.Error:
        return "the server runs elsewhere, behind a local port"
    return None if name.startswith("postgres") else "the server runs elsewhere, behind a local port"
