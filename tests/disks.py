"""Small file systems that really get full, and tablespaces on them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from tests.servers import PREFIX

from mandate.postgres.connection import connect, sql
from mandate.postgres.embedded import EmbeddedServer

_MIB = 1 << 20
_SHARED_MEMORY = Path("/dev/shm")
_LARGEST_BALLAST = 512 * _MIB


@contextmanager
def small_disk(mebibytes: int) -> Iterator[Path]:
    """A file system with so much free: a tmpfs; where nobody may mount one, what is left of /dev/shm."""
    place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=755", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
            place.rmdir()
    else:
        place.rmdir()
        with _rest_of_shared_memory(mebibytes) as rest:
            yield rest


@contextmanager
def _rest_of_shared_memory(mebibytes: int) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=_SHARED_MEMORY))
    too_much = shutil.disk_usage(place).free - mebibytes * _MIB
    try:
        if not 0 <= too_much < _LARGEST_BALLAST:
            pytest.fail(f"no small disk: mounting is not permitted, and {_SHARED_MEMORY} has no fitting size")
        place.chmod(0o755)
        _take(place / "ballast", too_much)
        yield place
    finally:
        shutil.rmtree(place)


def fill(place: Path, leave: int = 0) -> Path:
    """Take all that is free there but `leave` bytes; the file that has it."""
    file = place / f"filler-{uuid4().hex}"
    while True:
        try:
            _take(file, shutil.disk_usage(place).free - leave)
        except OSError as error:
            # The server took some of it in between.
            if error.errno != errno.ENOSPC:
                raise
        else:
            return file


def _take(file: Path, size: int) -> None:
    with file.open("wb") as opened:
        if size > 0:
            os.posix_fallocate(opened.fileno(), 0, size)


@contextmanager
def tablespace(server: EmbeddedServer, place: Path) -> Iterator[str]:
    """A tablespace there, empty again when it is dropped."""
    name = f"small_{uuid4().hex[:8]}"
    directory = place / name
    directory.mkdir(mode=0o700)
    owner = next(server.data_dir.rglob("PG_VERSION")).stat()
    os.chown(directory, owner.st_uid, owner.st_gid)
    with connect(server.target()) as session:
        location = sql.Literal(str(directory))
        session.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(sql.Identifier(name), location))
    try:
        yield name
    finally:
        with connect(server.target()) as session:
            session.execute(sql.SQL("DROP TABLESPACE {}").format(sql.Identifier(name)))
