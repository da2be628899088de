"""The server process: sockets, pid file, a graceful end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from mandate.controlplane import logs
from mandate.controlplane.access import grants, ledger
from mandate.controlplane.api.app import application
from mandate.controlplane.governance.startup import name_mistakes
from mandate.controlplane.grouping import LANES
from mandate.controlplane.watching import watch
from mandate.controlplane.wire import Protocol
from mandate.errors import DatabaseError, NoDatabase, ServiceFailed, UsageError
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded_host import holder
from mandate.postgres.pool import Pool
from mandate.settings import ServeSettings

APPLICATION_NAME = "mandate-serve"
GRACE_SECONDS = 15
log = structlog.get_logger("mandate.serve")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Listening:
    """A server that answers. `excess`: which rights in the database it has and should not have."""

    url: str
    port: int
    pid: int
    log_file: Path
    excess: str | None = None


def run(
    settings: ServeSettings,
    target: Callable[[], Target],
    announce: Callable[[Listening], None],
    pid_file: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and return.

    `target` is asked for each new connection, so the database may come later than the service. `announce` is
    called once requests are answered. Raises UsageError for a host that is not loopback where no tokens are,
    ServiceFailed when the port is taken, SettingsError when no log can be written.
    """
    exposed = not loopback_only(settings.host)
    found = _look(target)
    _refuse_open(found, exposed=exposed)
    sockets = listen(settings.host, settings.port)
    try:
        log_file = logs.open_log(settings.log_dir)
        port = sockets[0].getsockname()[1]
        listening = Listening(_url(sockets[0]), port, os.getpid(), log_file, found.excess if found else None)
        reading = Pool(target, application_name=APPLICATION_NAME, size=settings.pool_size)
        writing = Pool(target, application_name=APPLICATION_NAME, size=LANES + 1, writing=True)
        if listening.excess:
            log.warning("more rights than needed", connected_as=listening.excess, see="mandate db grant")
        with _pid_file(pid_file):
            app = application(
                reading,
                writing,
                lambda catalogue: watch(target, catalogue, APPLICATION_NAME),
                closed=exposed or bool(found and found.tokens),
            )
            _serve(
                app,
                sockets,
                lambda: announce(listening),
                lambda: name_mistakes(target, APPLICATION_NAME),
            )
    finally:
        for each in sockets:
            each.close()


def _serve(
    app: FastAPI,
    sockets: list[socket.socket],
    announce: Callable[[], None],
    beside: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Server(config, announce, beside).serve(sockets))


class _Server(uvicorn.Server):
    """uvicorn, whose normal end by a signal is a normal end. `beside` runs next to it until it ends."""

    def __init__(
        self,
        config: uvicorn.Config,
        announce: Callable[[], None],
        beside: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(config)
        self._announce = announce
        self._beside = beside
        self._task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("listening", pid=os.getpid())
            self._announce()
            self._task = asyncio.create_task(self._beside())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._task is not None:
            self._task.cancel()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again when all is done, which would turn a clean end into 130 or 143.
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address that `host` means, all on one port (0: a free one)."""
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses(host):
            bound = _bind(family, address, port, optional=bool(sockets))
            if bound is not None:
                sockets.append(bound)
                port = bound.getsockname()[1]
    except BaseException:
        for each in sockets:
            each.close()
        raise
    if not sockets:
        raise UsageError(f"no address of {host} can be listened on", hint="try --host 127.0.0.1")
    return sockets


def addresses(host: str) -> Sequence[tuple[int, str]]:
    """(family, address) of a host name or address. Raises UsageError where there is none."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host!r} is not an address of this machine: {error}") from None
    return sorted({(int(family), str(address[0])) for family, _, _, _, address in found})


def loopback_only(host: str) -> bool:
    """Whether every address that `host` means is loopback. Raises UsageError where there is none."""
    return all(ipaddress.ip_address(address).is_loopback for _, address in addresses(host))


@dataclass(frozen=True)
class _Found:
    """What the database says when the server starts."""

    tokens: bool
    excess: str | None


def _look(target: Callable[[], Target]) -> _Found | None:
    """None when the database cannot be asked: it may come later."""
    try:
        with connect(target(), application_name=APPLICATION_NAME, connect_timeout_seconds=3) as session:
            return _Found(ledger.exist(session), grants.excess(session))
    except (DatabaseError, NoDatabase):
        return None


def _refuse_open(found: _Found | None, *, exposed: bool) -> None:
    """Raise UsageError for a server that others can reach, unless there are tokens."""
    if exposed and not (found and found.tokens):
        unasked = " (the database cannot be asked whether there are any)" if found is None else ""
        raise UsageError(
            f"without configured tokens the server binds to loopback only{unasked}",
            hint="make tokens first (`mandate token create`), or use --host 127.0.0.1, ::1 or localhost",
        )


def _bind(family: int, address: str, port: int, *, optional: bool) -> socket.socket | None:
    try:
        # With the protocol spelt out asyncio sets TCP_NODELAY: else a kept connection waits 40 ms per answer.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError:
        return None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port))
        bound.listen(1024)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRNOTAVAIL or (optional and error.errno == errno.EAFNOSUPPORT):
            return None
        raise _cannot_listen(address, port, error) from None
    return bound


def _cannot_listen(address: str, port: int, error: OSError) -> ServiceFailed:
    if error.errno == errno.EADDRINUSE:
        return ServiceFailed(
            f"port {port} on {address} is taken by {holder(port)}",
            hint="stop it, or choose another port with --port",
            port=port,
        )
    return ServiceFailed(f"cannot listen on {address} port {port}: {error.strerror}", port=port)


def _url(bound: socket.socket) -> str:
    address, port = bound.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


@contextmanager
def _pid_file(path: Path | None) -> Iterator[None]:
    """Our pid in a file for as long as the server runs. Raises ServiceFailed when another one's is in it."""
    if path is None:
        yield
        return
    if (other := running_pid(path)) is not None:
        raise ServiceFailed(
            f"{path} says that mandate serve already runs as pid {other}",
            hint=f"stop it with `kill {other}`, or choose another --pid-file",
        )
    _write_atomically(path, f"{os.getpid()}\n")
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if path.read_text().strip() == str(os.getpid()):
                path.unlink()


def running_pid(path: Path) -> int | None:
    """The pid in a pid file if a `mandate serve` other than this process has it."""
    try:
        pid = int(path.read_text())
        command = psutil.Process(pid).cmdline()
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None
    ours = "serve" in command and any("mandate" in part for part in command)
    return pid if ours and pid != os.getpid() else None


def _write_atomically(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise UsageError(f"--pid-file {path} cannot be written: {error.strerror}") from None
