"""What stands between a client and a service: a relay that loses an answer, sockets that say too little."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Relay:
    """Carries bytes to whatever listens on `port`, which may change; nobody there ends a connection.

    `on_answer`, once set, is called when an answer to a decision has come: that is kept as `lost`, and the
    connection ends without it.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.on_answer: Callable[[], None] | None = None
        self.lost = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        """Until closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _carry(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.port))
        except OSError:
            client.close()
            return
        threading.Thread(target=_pour, args=(client, server), daemon=True).start()
        with suppress(OSError):
            while part := server.recv(65536):
                if self.on_answer is None:
                    client.sendall(part)
                    continue
                self.lost += part
                if self.lost.endswith(b"}}"):
                    happened, self.on_answer = self.on_answer, None
                    happened()
                    break
        _end(client, server)


def _pour(source: socket.socket, drain: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            drain.sendall(part)
    _end(source, drain)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    """A relay to a port of this machine."""
    made = Relay(port)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()


class Listener:
    """Takes JSON that is posted and answers with `parts`, with a pause after each, or never.

    `asked` is set when the first request has arrived, `ended` when its connection has ended.
    """

    def __init__(self, parts: tuple[bytes, ...], pause: float) -> None:
        self.parts = parts
        self.pause = pause
        self.asked, self.ended, self.over = threading.Event(), threading.Event(), threading.Event()
        self.requests: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        """Until closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        request = bytearray()
        self.requests.append(request)
        with client, suppress(OSError):
            while part := client.recv(65536):
                request += part
                if request.endswith(b"}"):
                    self.asked.set()
                    threading.Thread(target=self._answer, args=(client,), daemon=True).start()
        self.ended.set()

    def _answer(self, client: socket.socket) -> None:
        with suppress(OSError):
            for part in self.parts:
                client.sendall(part)
                if self.over.wait(self.pause):
                    return


@contextmanager
def listener(*parts: bytes, pause: float = 0.0) -> Iterator[Listener]:
    """A socket that takes requests; without `parts` it never answers."""
    made = Listener(parts, pause)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()


@contextmanager
def tls_proxy(port: int, directory: Path) -> Iterator[tuple[int, Path]]:
    """A proxy that speaks TLS to its clients, as one that stands in front of a service: its port, and the
    certificate that it made for localhost."""
    certificate = self_signed(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        ways = [asyncio.create_task(_copy(reader, forth)), asyncio.create_task(_copy(back, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await _ended(writer, forth)

    async def serve(listening: Future[tuple[int, Callable[[], object]]]) -> None:
        over = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = asyncio.create_task(carry(reader, writer))
            connections.add(connection)
            connection.add_done_callback(connections.discard)

        loop = asyncio.get_running_loop()
        async with await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context) as server:
            address = server.sockets[0].getsockname()
            listening.set_result((address[1], partial(loop.call_soon_threadsafe, over.set)))
            await over.wait()
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    listening: Future[tuple[int, Callable[[], object]]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(serve(listening)), daemon=True)
    thread.start()
    number, end = listening.result(timeout=30)
    try:
        yield number, certificate
    finally:
        end()
        thread.join()


async def _ended(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.transport.abort()
    for writer in writers:
        with suppress(OSError):
            await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()


def self_signed(directory: Path) -> Path:
    """A file with a new key and a certificate of its own for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = directory / "localhost.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file
