"""The files of an embedded cluster: where they are, whether they are ours, what they say.

`data_dir/` holds `mandate.json` (the marker that makes the directory ours), `cluster/` (PostgreSQL's own
data directory), `log/postgresql.log` and `run/` (the socket). A directory that is not empty and has no
marker is never touched.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

import mandate
from mandate.errors import DiskFull, EmbeddedServerError
from mandate.postgres.embedded_host import Account, Finished, run
from mandate.progress import Reporter

SOCKET_PATH_LIMIT = 107
LOCK_WAIT_SECONDS = 120.0
LOG_KEEP_BYTES = 16 * 1024 * 1024
MEBIBYTE = 1024 * 1024
_SCRATCH = ".mandate-"


@dataclass(frozen=True)
class Layout:
    """The paths below a data directory."""

    data_dir: Path

    @classmethod
    def of(cls, data_dir: Path) -> Layout:
        """Absolute and without symbolic links. Raises EmbeddedServerError for a path no shell can quote."""
        place = Path(os.path.realpath(data_dir.expanduser()))
        if re.search(r'["$`\\\x00-\x1f]', str(place)):
            raise EmbeddedServerError(
                f"the data directory's path {str(place)!r} has a character that PostgreSQL's pg_ctl"
                " cannot quote",
                hint="choose a path without quotes, $, `, \\ and control characters",
            )
        return cls(place)

    @property
    def marker(self) -> Path:
        return self.data_dir / "mandate.json"

    @property
    def lock(self) -> Path:
        return self.data_dir / ".lock"

    @property
    def cluster(self) -> Path:
        return self.data_dir / "cluster"

    @property
    def log(self) -> Path:
        return self.data_dir / "log" / "postgresql.log"

    @property
    def pid_file(self) -> Path:
        return self.cluster / "postmaster.pid"


@dataclass(frozen=True)
class Postmaster:
    """What postmaster.pid says about a live server of ours."""

    pid: int
    port: int
    socket_dir: Path
    started_at: datetime
    ready: bool


def is_ours(layout: Layout) -> bool:
    """Whether the marker is there and readable as ours."""
    return bool(read_marker(layout))


def read_marker(layout: Layout) -> dict[str, Any]:
    """The marker's content, {} when there is none or it is not ours."""
    try:
        found = json.loads(layout.marker.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "mandate-embedded-postgresql" else {}


def is_foreign(layout: Layout) -> bool:
    """Whether something that is not ours is at this path."""
    if is_ours(layout):
        return False
    if not layout.data_dir.is_dir():
        return layout.data_dir.exists()
    with os.scandir(layout.data_dir) as entries:
        return not all(entry.name == "lost+found" or _is_our_claim(entry.name, layout) for entry in entries)


def _is_our_claim(name: str, layout: Layout) -> bool:
    """What another `start` may have made in the moment before it wrote the marker."""
    return name == layout.lock.name or name.startswith(_SCRATCH)


def refuse_foreign(layout: Layout) -> None:
    """Raise EmbeddedServerError when the path holds something that is not ours."""
    try:
        foreign = is_foreign(layout)
    except OSError as error:
        raise unusable(layout.data_dir, error) from None
    if foreign and not layout.data_dir.is_dir():
        raise EmbeddedServerError(
            f"{layout.data_dir} is a file, not a directory", hint="choose another --data-dir"
        )
    if foreign:
        raise EmbeddedServerError(
            f"{layout.data_dir} is not empty and is not a data directory of Mandate (no mandate.json);"
            " it was left untouched",
            hint="choose an empty or a new directory with --data-dir",
        )


def unusable(path: Path, error: OSError) -> EmbeddedServerError | DiskFull:
    """The error for a directory that the system refuses."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(path)
    return EmbeddedServerError(
        f"data directory {path} cannot be used: {error.strerror}: {error.filename or path}",
        hint="choose another --data-dir, or run as the user who owns it",
    )


def says_disk_full(words: str) -> bool:
    """Whether PostgreSQL's own words (untranslated) tell of a full disk or a used-up quota."""
    return re.search("No space left on device|Check free disk space|Disk quota exceeded", words) is not None


def disk_full(path: Path) -> DiskFull:
    """The error for a full disk, with what is free."""
    there = next(place for place in [path, *path.parents] if place.exists())
    free = shutil.disk_usage(there).free
    return DiskFull(
        f"not enough disk space for {path} ({free / MEBIBYTE:,.0f} MiB free)",
        hint="free some space (a new cluster needs about 100 MiB) or choose another --data-dir",
        path=str(path),
        free_bytes=free,
    )


def claim(layout: Layout, account: Account) -> None:
    """Make the directory ours: create it, check that it is empty or ours already."""
    refuse_foreign(layout)
    try:
        layout.data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        layout.lock.touch(mode=0o600)
        if not layout.marker.exists():
            write_marker(layout)
        for place in (layout.log.parent, layout.data_dir / "run"):
            if not place.is_dir():
                place.mkdir(mode=0o755, exist_ok=True)
                account.own(place)
    except OSError as error:
        raise unusable(layout.data_dir, error) from None


@contextmanager
def locked(layout: Layout, reporter: Reporter) -> Iterator[int]:
    """Only one start or stop at a time for a data directory; waits for the other one.

    Yields the lock's descriptor: a child that inherits it keeps the lock, should this process be killed.
    """
    try:
        handle = layout.lock.open("a")
    except OSError as error:
        raise unusable(layout.data_dir, error) from None
    with handle:
        _acquire(handle.fileno(), layout, reporter)
        yield handle.fileno()


def _acquire(descriptor: int, layout: Layout, reporter: Reporter) -> None:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"another start or stop of {layout.data_dir} has not ended in {LOCK_WAIT_SECONDS:.0f} s",
                    hint="look for a hanging `mandate db start`",
                ) from None
        if not said:
            reporter.line(f"waiting: another start or stop of {layout.data_dir} is running")
            said = True
        time.sleep(0.1)


def write_marker(layout: Layout, **changes: Any) -> None:
    """Update the marker in place of the old one, atomically."""
    fresh = {
        "kind": "mandate-embedded-postgresql",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "mandate_version": mandate.__version__,
    }
    write(layout.marker, json.dumps({**fresh, **read_marker(layout), **changes}, indent=2) + "\n")


def write(path: Path, text: str) -> None:
    """Replace a file atomically, world-readable."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=_SCRATCH, delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(file.name).rename(path)
    except OSError as error:
        raise unusable(path.parent, error) from None


def cluster_version(layout: Layout) -> int | None:
    """Major version of the cluster; None when there is none. The marker says it to users who may not
    read the cluster itself."""
    try:
        return int((layout.cluster / "PG_VERSION").read_text("ascii").strip())
    except PermissionError:
        return read_marker(layout).get("postgresql")
    except (OSError, ValueError):
        return None


def create(layout: Layout, account: Account, programs: Path, version: int, *, sync: bool, lock: int) -> None:
    """initdb beside the final place, create database `mandate`, then rename: whole or not at all.

    `lock` is the descriptor that `locked` gave: an initdb whose parent was killed holds it to its end, so
    that the next start does not clear away what is still being written.
    """
    for leftover in layout.data_dir.glob("new-cluster-*"):
        shutil.rmtree(leftover)
    try:
        building = Path(tempfile.mkdtemp(dir=layout.data_dir, prefix="new-cluster-"))
        account.own(building)
    except OSError as error:
        raise unusable(layout.data_dir, error) from None
    try:
        _initdb(building, layout, account, programs, sync=sync, lock=lock)
        write_marker(layout, postgresql=version)
        building.rename(layout.cluster)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _initdb(place: Path, layout: Layout, account: Account, programs: Path, *, sync: bool, lock: int) -> None:
    flags = ["--username=postgres", "--encoding=UTF8", "--locale=C", "--auth=trust", "--data-checksums"]
    extra = ["--no-instructions"] if sync else ["--no-instructions", "--no-sync"]
    done = run([programs / "initdb", "-D", place, *flags, *extra], account, inherited=(lock,))
    require(done, "initdb", layout)
    with (place / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.write("\ninclude_if_exists = '../mandate.conf'\t# written by `mandate db start`\n")
    # Single-user mode, so that a cluster has its database from the moment it exists.
    single: list[str | Path] = [programs / "postgres", "--single", "-D", place, "postgres"]
    done = run(single, account, stdin="CREATE DATABASE mandate\n", inherited=(lock,))
    require(done, "CREATE DATABASE", layout)


def require(done: Finished, what: str, layout: Layout) -> None:
    """Raise for a program that failed; its last lines are in the message."""
    if says_disk_full(done.output):
        raise disk_full(layout.data_dir)
    if done.returncode != 0:
        said = "\n".join(done.output.strip().splitlines()[-5:])
        raise EmbeddedServerError(f"{what} failed for {layout.data_dir}: {said or 'it said nothing'}")


def configure(
    layout: Layout, account: Account, port: int, socket_dir: Path, options: Mapping[str, str]
) -> None:
    """Write mandate.conf: where to listen, figures that suit this machine, and `options` over them."""
    values = {**_listening(port, socket_dir), **_tuning(), **_logging(), **options}
    lines = ["# Written at each `mandate db start`; your own settings: ALTER SYSTEM.\n"]
    for name, value in values.items():
        if not re.fullmatch(r"[a-z][a-z0-9_.]*", name):
            raise EmbeddedServerError(f"{name!r} is not the name of a PostgreSQL setting")
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'\n")
    write(layout.data_dir / "mandate.conf", "".join(lines))


def _listening(port: int, socket_dir: Path) -> dict[str, str]:
    return {
        "listen_addresses": "localhost",
        "port": str(port),
        "unix_socket_directories": f'"{socket_dir}"',
        "timezone": "UTC",
        "log_timezone": "UTC",
    }


def _tuning() -> dict[str, str]:
    memory = psutil.virtual_memory().total // MEBIBYTE
    processors = os.cpu_count() or 1
    return {
        "shared_buffers": f"{_within(memory // 8, 128, 1024)}MB",
        "effective_cache_size": f"{max(memory // 2, 256)}MB",
        "maintenance_work_mem": f"{_within(memory // 32, 64, 512)}MB",
        "work_mem": f"{_within(memory // 512, 8, 32)}MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "wal_buffers": "16MB",
        "random_page_cost": "1.1",
        "max_parallel_maintenance_workers": str(_within(processors, 1, 4)),
        "dynamic_shared_memory_type": _shared_memory_type(),
    }


def _within(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _shared_memory_type() -> str:
    """Containers give /dev/shm 64 MiB, too little for a parallel hash join or index build."""
    try:
        roomy = shutil.disk_usage("/dev/shm").total >= 512 * MEBIBYTE
    except OSError:
        roomy = False
    return "posix" if roomy else "mmap"


def _logging() -> dict[str, str]:
    return {
        "logging_collector": "off",
        "log_line_prefix": "%m [%p] %q%a@%d ",
        "log_min_duration_statement": "10s",
        "log_lock_waits": "on",
        "cluster_name": "mandate",
    }


def socket_directory(layout: Layout, account: Account) -> Path:
    """`run/` in the data directory, or a private one in the temporary directory when that is too long."""
    place = layout.data_dir / "run"
    if _fits(place):
        return place
    kept = Path(read_marker(layout).get("socket_dir", "/nonexistent"))
    if _private(kept, account):
        return kept
    place = Path(tempfile.mkdtemp(prefix="mandate-"))
    account.own(place)
    if not _fits(place):
        raise EmbeddedServerError(
            f"no directory short enough for a socket: {place}", hint="set TMPDIR to a short path"
        )
    return place


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / ".s.PGSQL.65535")) <= SOCKET_PATH_LIMIT


def _private(directory: Path, account: Account) -> bool:
    if directory.is_symlink() or not directory.is_dir():
        return False
    info = directory.stat()
    return info.st_uid == account.uid and info.st_mode & 0o077 == 0


def rotate_log(layout: Layout) -> None:
    """Keep one old log once the current one has grown large."""
    if layout.log.exists() and layout.log.stat().st_size > LOG_KEEP_BYTES:
        layout.log.rename(layout.log.with_suffix(".log.1"))


def log_since(layout: Layout, offset: int) -> list[str]:
    """The server's log lines from a byte offset on, at most its last 64 KiB."""
    try:
        with layout.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(min(offset, end), end - 65536))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def read_postmaster(layout: Layout) -> Postmaster | None:
    """The live server of this cluster, proven by its command line; None when there is none."""
    try:
        lines = layout.pid_file.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError:
        return _from_process_table(layout)
    try:
        pid, started, port = int(lines[0]), int(lines[2]), int(lines[3])
    except (IndexError, ValueError):
        return None
    if not serves(pid, layout):
        return None
    ready = len(lines) > 7 and lines[7].startswith("ready")
    return Postmaster(pid, port, Path(lines[4]), datetime.fromtimestamp(started, UTC), ready)


def _from_process_table(layout: Layout) -> Postmaster | None:
    """The same for a user who may not read the cluster: the marker keeps port and socket."""
    marker = read_marker(layout)
    for process in psutil.process_iter(["pid", "create_time"]):
        if serves(process.pid, layout) and "port" in marker:
            started = datetime.fromtimestamp(process.info["create_time"], UTC)
            return Postmaster(process.pid, marker["port"], Path(marker["socket_dir"]), started, True)
    return None


def serves(pid: int, layout: Layout) -> bool:
    """Whether process `pid` is a postmaster of exactly this cluster; a reused pid is not."""
    try:
        argv = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    pairs = pairwise(argv)
    return bool(argv) and Path(argv[0]).name == "postgres" and ("-D", str(layout.cluster)) in pairs


def discard_stale_pid_file(layout: Layout) -> None:
    """Remove postmaster.pid of a server that is proven gone, after its last backend went too.

    PostgreSQL does this itself unless the pid was given to another process meanwhile.
    """
    if not layout.pid_file.exists() or read_postmaster(layout) is not None:
        return
    deadline = time.monotonic() + 30
    while _backends(layout):
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"the server of {layout.data_dir} is gone but processes of it are still running:"
                f" {', '.join(map(str, _backends(layout)))}",
                hint="wait for them, or end them",
            )
        time.sleep(0.1)
    layout.pid_file.unlink(missing_ok=True)


def _backends(layout: Layout) -> list[int]:
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and Path(process.cwd()) == layout.cluster:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
