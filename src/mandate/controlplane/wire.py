"""HTTP/1.1 on the wire: uvicorn's fast protocol, with a limit for the head of a request, our refusals, and a
short way to decisions (`express`) that makes neither a task nor an ASGI conversation of a request."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import uuid4

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from mandate.controlplane.api.express import MOST_BYTES, Express, Headers
from mandate.controlplane.api.guard import Begun
from mandate.controlplane.api.problems import HEADERS_TOO_LARGE, MALFORMED_REQUEST, Problem

MAX_HEAD_BYTES = 64 * 1024
_CREATED = STATUS_LINE[201]


class _Flight:
    """A request that is being answered on the short way; uvicorn sees in it a cycle that is not complete."""

    __slots__ = ("body", "disconnected", "headers", "keep_alive", "message_event", "response_complete", "url")

    def __init__(self, url: bytes, headers: Headers, keep_alive: bool) -> None:
        self.url = url
        self.headers = headers
        self.keep_alive = keep_alive
        self.body: list[bytes] = []
        self.response_complete = False
        self.disconnected = False
        self.message_event = _NOBODY_WAITS


_NOBODY_WAITS = asyncio.Event()


class Protocol(HttpToolsProtocol):
    """The parser keeps a head in memory until it is complete, however long; this one gives up on it."""

    _in_head = False
    _head_bytes = 0
    _flight: _Flight | None = None  # whose body is still arriving

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._express: Express | None = self.app_state.get("express")

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._is_plain():
            self._flight = _Flight(self.url, self.headers, self.parser.should_keep_alive())
            self.cycle = cast(Any, self._flight)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._flight is not None:
            self._flight.body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        flight, self._flight = self._flight, None
        if flight is None:
            super().on_message_complete()
        elif self._express is None or not self._take(self._express, flight, b"".join(flight.body)):
            self._go_long_way(flight)

    def _is_plain(self) -> bool:
        """Whether the short way may know what to do with the request whose headers are complete."""
        if self._express is None or not self._express.may_take(self.parser.get_method(), self.url):
            return False
        idle = self.cycle is None or self.cycle.response_complete
        if not idle or self.flow.write_paused or self.parser.get_http_version() != "1.1":
            return False
        sizes = [value for name, value in self.headers if name == b"content-length"]
        return len(sizes) == 1 and sizes[0].isdigit() and len(sizes[0]) < 7 and int(sizes[0]) <= MOST_BYTES

    def _take(self, express: Express, flight: _Flight, body: bytes) -> bool:
        def done(head: bytes, body: bytes) -> None:
            if flight.disconnected:
                return
            flight.response_complete = True
            standard = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
            end = b"\r\n" if flight.keep_alive else b"connection: close\r\n\r\n"
            self.transport.write(b"".join((_CREATED, *standard, head, end, body)))
            if not flight.keep_alive:
                self.transport.close()
            self.on_response_complete()

        return express.take(
            flight.url, flight.headers, body, done, lambda begun: self._go_long_way(flight, begun)
        )

    def _go_long_way(self, flight: _Flight, begun: Begun | None = None) -> None:
        """Make an ASGI conversation of a request whose body has arrived."""
        path = flight.url.decode()
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": flight.headers,
            "state": self.app_state.copy(),
            "method": "POST",
            "path": self.root_path + path,
            "raw_path": flight.url,
            "query_string": b"",
            "mandate.begun": begun,
        }
        cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=flight.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.body += b"".join(flight.body)
        cycle.more_body = False
        cycle.disconnected = flight.disconnected
        cycle.message_event.set()
        if self.cycle is cast(Any, flight):
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)

    def connection_lost(self, exc: Exception | None) -> None:
        flight, self._flight = self._flight, None
        super().connection_lost(exc)
        if flight is not None:  # the long way says what it is to lose half of a body
            self._go_long_way(flight)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(Problem(HEADERS_TOO_LARGE, f"path and headers may have {MAX_HEAD_BYTES} bytes"))

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what its parser refuses."""
        self._refuse(Problem(MALFORMED_REQUEST, "this is no HTTP/1.1 request, or its URL is far too long"))

    def _refuse(self, problem: Problem) -> None:
        response: Response = problem.response(str(uuid4()))
        head = [b"%b: %b\r\n" % header for header in (*response.raw_headers, (b"connection", b"close"))]
        parts = [STATUS_LINE[response.status_code], *head, b"\r\n", bytes(response.body)]
        self.transport.write(b"".join(parts))
        self.transport.close()
