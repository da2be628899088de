"""HTTP/1.1 on the wire: uvicorn's fast protocol, with a limit for the head of a request and our refusals."""

from __future__ import annotations

from uuid import uuid4

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mandate.controlplane.api.problems import HEADERS_TOO_LARGE, MALFORMED_REQUEST, Problem

MAX_HEAD_BYTES = 64 * 1024


class Protocol(HttpToolsProtocol):
    """The parser keeps a head in memory until it is complete, however long; this one gives up on it."""

    _in_head = False
    _head_bytes = 0

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

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
