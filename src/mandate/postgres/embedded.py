"""The PostgreSQL that comes with the package: start, stop, find.

It is for this machine only: it listens on the loopback addresses and on a socket, and trusts whoever reaches
those (every local user is its superuser). Do not put anybody else's data in it.

A server outlives the process and the terminal that started it. What is not ours is never touched: a directory
needs our marker, a process must be serving exactly that directory.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from mandate.errors import DatabaseError, EmbeddedServerError, UsageError
from mandate.postgres import embedded_cluster as cluster
from mandate.postgres import embedded_host as host
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded_cluster import Layout, Postmaster
from mandate.postgres.embedded_host import Account
from mandate.postgres.programs import EMBEDDED_VERSIONS, embedded_bin
from mandate.progress import Reporter, Silent

DEFAULT_VERSION = 18
DEFAULT_PORT = 5432
START_TIMEOUT_SECONDS = 600
STOP_TIMEOUT_SECONDS = 120
SETTLE_SECONDS = 60

State = Literal["not-initialised", "stopped", "starting", "running", "stale-pid", "foreign"]


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server. `version` is the major version."""

    data_dir: Path
    port: int
    socket_dir: Path
    version: int
    pid: int

    def target(self, database: str = "postgres") -> Target:
        """How to connect to one of its databases."""
        return Target(
            {
                "host": "localhost",
                "port": str(self.port),
                "user": "postgres",
                "dbname": database,
                "sslmode": "disable",
                "gssencmode": "disable",
            },
            "embedded server",
        )

    @property
    def bin_dir(self) -> Path:
        """Where psql, pg_dump and pg_restore of the same version are."""
        if self.version in EMBEDDED_VERSIONS:
            return embedded_bin(self.version)
        return Path(f"/usr/lib/postgresql/{self.version}/bin")


@dataclass(frozen=True)
class Status:
    """What is at a data directory. `port` is the one in use, else the last one used."""

    state: State
    data_dir: Path
    version: int | None = None
    port: int | None = None
    pid: int | None = None
    started_at: datetime | None = None
    log: Path | None = None
    server: EmbeddedServer | None = None


def running(data_dir: Path) -> EmbeddedServer | None:
    """The server of a data directory when it runs and accepts connections."""
    return status(data_dir).server


def status(data_dir: Path) -> Status:
    """What is there; looks only, and needs no more rights than to read."""
    layout = Layout.of(data_dir)
    try:
        if cluster.is_foreign(layout):
            return Status("foreign", layout.data_dir)
    except OSError:
        return Status("foreign", layout.data_dir)
    version = cluster.cluster_version(layout)
    if not cluster.is_ours(layout) or version is None:
        return Status("not-initialised", layout.data_dir)
    postmaster = cluster.read_postmaster(layout)
    if postmaster is None:
        stale = os.access(layout.cluster, os.X_OK) and layout.pid_file.exists()
        last = cluster.read_marker(layout).get("port")
        state: State = "stale-pid" if stale else "stopped"
        return Status(state, layout.data_dir, version, last, log=layout.log)
    return Status(
        "running" if postmaster.ready else "starting",
        layout.data_dir,
        version,
        postmaster.port,
        postmaster.pid,
        postmaster.started_at,
        layout.log,
        _server(layout, postmaster, version) if postmaster.ready else None,
    )


def _server(layout: Layout, postmaster: Postmaster, version: int) -> EmbeddedServer:
    return EmbeddedServer(layout.data_dir, postmaster.port, postmaster.socket_dir, version, postmaster.pid)


def reachable(data_dir: Path) -> Path:
    """`data_dir`, or for root, when it lies below a directory that the server's user may not enter (such as
    /root), a data directory of its own in /var/lib/mandate. For callers that need not be asked which."""
    layout = Layout.of(data_dir)
    account = host.server_account(Silent())
    below = next(place for place in [layout.data_dir, *layout.data_dir.parents] if place.is_dir())
    if account.is_self or host.may_enter(account, below):
        return data_dir
    digest = hashlib.sha256(os.fsencode(layout.data_dir)).hexdigest()[:8]
    return host.SHARED_STATE / f"{layout.data_dir.name}-{digest}"


def start(
    data_dir: Path,
    *,
    version: int | None = None,
    port: int | None = None,
    options: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> EmbeddedServer:
    """Start the server of a data directory, creating the cluster first when there is none.

    `version`: None is the cluster's own, 18 for a new one. `port`: None is 5432, or when that is taken the
    one used last, or any free one; 0 is any free one; a number is that one or an error. `options` are server
    settings. Running already: that server, whoever started it. Raises EmbeddedServerError, DiskFull.
    """
    teller = reporter or Silent()
    layout = Layout.of(data_dir)
    cluster.refuse_foreign(layout)
    account = _account(layout, teller)
    cluster.claim(layout, account)
    host.require_reachable(account, layout.data_dir)
    with cluster.locked(layout, teller) as lock:
        cluster.refuse_foreign(layout)
        existing = cluster.cluster_version(layout)
        _require_version(layout, existing, version)
        if existing and (postmaster := _settled(layout)):
            return _already_running(layout, postmaster, port, existing)
        wanted = existing or version or DEFAULT_VERSION
        return _start(_Plan(layout, account, wanted, port, options or {}, teller, lock))


@dataclass(frozen=True)
class _Plan:
    layout: Layout
    account: Account
    version: int
    port: int | None
    options: Mapping[str, str]
    reporter: Reporter
    lock: int


def _account(layout: Layout, reporter: Reporter) -> Account:
    """The owner of the cluster, or for a new one whoever may run it."""
    try:
        owner = Account.of(layout.cluster.stat().st_uid)
    except FileNotFoundError:
        return host.server_account(reporter)
    except OSError as error:
        raise cluster.unusable(layout.data_dir, error) from None
    if os.geteuid() not in (0, owner.uid):
        raise EmbeddedServerError(
            f"{layout.data_dir} belongs to user {owner.name}", hint=f"run this as {owner.name} or as root"
        )
    return owner


def _require_version(layout: Layout, existing: int | None, wanted: int | None) -> None:
    if existing is None and layout.cluster.exists():
        raise EmbeddedServerError(
            f"the cluster in {layout.data_dir} is damaged: PG_VERSION cannot be read",
            hint=f"restore it from a backup, or move {layout.data_dir} away and start anew",
        )
    if existing and wanted and existing != wanted:
        raise EmbeddedServerError(
            f"the cluster in {layout.data_dir} is PostgreSQL {existing}, not {wanted}",
            hint=f"leave out --version, or choose another --data-dir for PostgreSQL {wanted}",
        )


def _settled(layout: Layout) -> Postmaster | None:
    """The server once it is ready or gone; one may be in recovery or shutting down."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (postmaster := cluster.read_postmaster(layout)) and not postmaster.ready:
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"the server of {layout.data_dir} is still starting up or shutting down",
                hint=f"wait for it; its log is {layout.log}",
            )
        time.sleep(0.1)
    return postmaster


def _already_running(
    layout: Layout, postmaster: Postmaster, port: int | None, version: int
) -> EmbeddedServer:
    if port and port != postmaster.port:
        raise EmbeddedServerError(
            f"the server of {layout.data_dir} runs already, on port {postmaster.port}",
            hint="`mandate db stop` first, or leave out --port",
        )
    return _server(layout, postmaster, version)


def _start(plan: _Plan) -> EmbeddedServer:
    layout, account = plan.layout, plan.account
    port = _choose_port(plan)
    programs = host.server_bin(plan.version, account, plan.reporter)
    if not layout.cluster.exists():
        with plan.reporter.task(f"creating a PostgreSQL {plan.version} cluster", expected_seconds=4):
            sync = plan.options.get("fsync") != "off"
            cluster.create(layout, account, programs, plan.version, sync=sync, lock=plan.lock)
    cluster.discard_stale_pid_file(layout)
    socket_dir = cluster.socket_directory(layout, account)
    cluster.write_marker(layout, port=port, socket_dir=str(socket_dir))
    cluster.configure(layout, account, port, socket_dir, plan.options)
    _launch(plan, programs, port)
    postmaster = cluster.read_postmaster(layout)
    if postmaster is None:
        raise EmbeddedServerError(
            f"the server of {layout.data_dir} ended as soon as it had started", hint=f"see {layout.log}"
        )
    server = _server(layout, postmaster, plan.version)
    _require_answer(server, layout)
    return server


def _choose_port(plan: _Plan) -> int:
    if plan.port:
        if not host.is_free(plan.port):
            raise _port_taken(plan.port)
        return plan.port
    if plan.port == 0:
        return host.free_port()
    if host.is_free(DEFAULT_PORT):
        return DEFAULT_PORT
    last = cluster.read_marker(plan.layout).get("port")
    port = last if isinstance(last, int) and host.is_free(last) else host.free_port()
    plan.reporter.line(f"port {DEFAULT_PORT} is taken by {host.holder(DEFAULT_PORT)}: using {port}")
    return port


def _port_taken(port: int) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"port {port} is taken by {host.holder(port)}",
        hint="choose another --port, or leave it out and a free one is found",
        port=port,
    )


def _launch(plan: _Plan, programs: Path, port: int) -> None:
    layout = plan.layout
    cluster.rotate_log(layout)
    offset = layout.log.stat().st_size if layout.log.exists() else 0
    argv: list[str | Path] = [programs / "pg_ctl", "start", "-w", "-t", str(START_TIMEOUT_SECONDS)]
    with plan.reporter.task(f"starting PostgreSQL {plan.version}", expected_seconds=2):
        done = host.run([*argv, "-D", layout.cluster, "-l", layout.log], plan.account)
    if done.returncode == 0:
        return
    lines = cluster.log_since(layout, offset) or done.output.splitlines()
    said = "\n".join(lines[-8:])
    if cluster.says_disk_full(said):
        raise cluster.disk_full(layout.data_dir)
    if "Address already in use" in said:
        raise _port_taken(port)
    raise EmbeddedServerError(
        f"PostgreSQL {plan.version} did not start in {layout.data_dir}:\n{said}", hint=f"see {layout.log}"
    )


def _require_answer(server: EmbeddedServer, layout: Layout) -> None:
    """Something else may hold the port on one of localhost's addresses: then it would answer, not ours."""
    try:
        with connect(server.target(), application_name="mandate-start") as session:
            place = session.value("SELECT current_setting('data_directory')")
    except DatabaseError as error:
        place, reason = None, error.message
    else:
        reason = f"somebody else answers there, from {place}"
    if place != str(layout.cluster):
        with suppress(EmbeddedServerError):
            _stop(layout, "fast")
        raise EmbeddedServerError(f"the server started but not at localhost:{server.port}: {reason}")


def stop(data_dir: Path, *, mode: str = "fast", reporter: Reporter | None = None) -> bool:
    """Stop the server of a data directory. False when it was not running. Raises EmbeddedServerError.

    `mode` is PostgreSQL's: smart waits for clients, fast ends their sessions, immediate skips the checkpoint.
    """
    if mode not in ("smart", "fast", "immediate"):
        raise UsageError(f"{mode!r} is no way to stop PostgreSQL", hint="smart, fast or immediate")
    layout = Layout.of(data_dir)
    cluster.refuse_foreign(layout)
    if status(layout.data_dir).pid is None:
        return False
    _account(layout, reporter or Silent())
    with cluster.locked(layout, reporter or Silent()):
        return _stop(layout, mode)


def _stop(layout: Layout, mode: str) -> bool:
    version = cluster.cluster_version(layout)
    if version is None or cluster.read_postmaster(layout) is None:
        return False
    account = _account(layout, Silent())
    programs = host.server_bin(version, account, Silent())
    argv: list[str | Path] = [programs / "pg_ctl", "stop", "-w", "-t", str(STOP_TIMEOUT_SECONDS), "-m", mode]
    done = host.run([*argv, "-D", layout.cluster], account)
    if done.returncode != 0 and cluster.read_postmaster(layout) is not None:
        raise EmbeddedServerError(
            f"the server of {layout.data_dir} did not stop: {done.output.strip()}",
            hint="clients may still be connected; --mode fast ends their sessions",
        )
    return True
