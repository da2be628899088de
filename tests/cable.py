"""A TCP proxy between a client and PostgreSQL that breaks at a chosen COMMIT."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum

from mandate.postgres.connection import Target


class Cut(Enum):
    """When the connection breaks: as seen by the server."""

    BEFORE = "the COMMIT never arrives"
    AFTER = "the COMMIT arrives, its answer does not"
    LATER = "the client is gone, and the COMMIT arrives only when it is let through"
    STALLED = "nothing arrives any more, and nobody is told"


@dataclass
class _Link:
    """One connection. `muted`: the client hears nothing more; `over`: the server has hung up."""

    client: socket.socket
    server: socket.socket
    muted: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    def pour(self) -> None:
        """What the server says, until it has nothing more to say."""
        with suppress(OSError):
            while data := self.server.recv(65536):
                if not self.muted:
                    self.client.sendall(data)
        self.over.set()
        if not self.muted:
            _hang_up(self.client)

    def say_last(self, message: bytes) -> None:
        """Send it, and goodbye (Terminate), and wait until the server has done both."""
        with suppress(OSError):
            self.server.sendall(message + b"X\x00\x00\x00\x04")
        self.over.wait(30)

    def cut(self) -> None:
        """Both ends at once."""
        self.muted = True
        _hang_up(self.client)
        _hang_up(self.server)


@dataclass
class Cable:
    """Forwards connections to a port of this machine, until it is armed.

    `happened`: it broke; `mended`: let through what was held up. `alone`: other connections stay, and new
    ones are let in.
    """

    port: int
    cut: Cut | None = None
    word: bytes = b""
    alone: bool = True
    happened: threading.Event = field(default_factory=threading.Event)
    mended: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _links: list[_Link] = field(default_factory=list)

    def target(self, target: Target) -> Target:
        """The same database by way of this cable."""
        here = {"host": "127.0.0.1", "port": str(self._listener.getsockname()[1])}
        return Target({**target.parameters, **here}, target.source)

    def arm(self, cut: Cut, *, word: bytes = b" SET SCHEMA ", alone: bool = True) -> None:
        """Break at the next COMMIT of a session that said `word`."""
        self.happened.clear()
        self.mended.clear()
        self.word, self.alone = word, alone
        self.cut = cut

    def run(self) -> None:
        """Take connections until the cable is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self.alone and self.happened.is_set() and not self.mended.is_set():
                    client.close()
                    continue
                link = _Link(client, socket.create_connection(("127.0.0.1", self.port)))
                for end in (link.client, link.server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._links.append(link)
                threading.Thread(target=self._upwards, args=(link,), daemon=True).start()
                threading.Thread(target=link.pour, daemon=True).start()

    def close(self) -> None:
        """End everything."""
        self.mended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Break every connection there is."""
        for link in self._links:
            link.cut()

    def _upwards(self, link: _Link) -> None:
        """Message by message, so that a COMMIT is seen before it is sent."""
        said = False
        with suppress(OSError):
            for message in _messages(link.client):
                said = said or (self.cut is not None and self.word in message)
                if said and self.cut is not None and b"COMMIT" in message:
                    cut, self.cut = self.cut, None
                    self._break(cut, message, link)
                    return
                link.server.sendall(message)
        link.cut()

    def _break(self, cut: Cut, message: bytes, link: _Link) -> None:
        link.muted = True
        if cut is Cut.AFTER:
            link.say_last(message)
        elif cut is not Cut.BEFORE:
            if cut is Cut.LATER:
                _hang_up(link.client)
            self.happened.set()
            self.mended.wait(60)
            if cut is Cut.LATER:
                link.say_last(message)
        self.happened.set()
        link.cut()
        if not self.alone:
            self.cut_all()


def _messages(client: socket.socket) -> Iterator[bytes]:
    """What a client sends: a first packet without a type, then typed messages."""
    yield _packet(client, b"")
    while True:
        yield _packet(client, _exactly(client, 1))


def _packet(client: socket.socket, kind: bytes) -> bytes:
    length = _exactly(client, 4)
    return kind + length + _exactly(client, struct.unpack("!I", length)[0] - 4)


def _exactly(source: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = source.recv(count - len(found))
        if not part:
            raise ConnectionError("the client has hung up")
        found += part
    return found


def _hang_up(link: socket.socket) -> None:
    with suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
    link.close()


@contextmanager
def cable(target: Target) -> Iterator[Cable]:
    """A cable to the server of `target`, that forwards until it is armed."""
    made = Cable(int(target.parameters["port"]))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()
