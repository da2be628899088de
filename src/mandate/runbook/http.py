"""GET with bounds: on time, on size, on where it goes."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

import mandate
from mandate.errors import UsageError

LIMIT_BYTES = 16 * 1024 * 1024
_SNIPPET = 200


class NoAnswer(Exception):
    """No HTTP response came; the text says why."""


class NotJson(Exception):
    """The body is not JSON; the text says how it begins."""


@dataclass(frozen=True)
class Response:
    """What a server answered. `milliseconds` until the last byte."""

    status: int
    content_type: str
    body: bytes
    milliseconds: float

    @property
    def snippet(self) -> str:
        """The first characters of the body, on one line."""
        return " ".join(self.body[: 4 * _SNIPPET].decode("utf-8", "replace").split())[:_SNIPPET]

    def json(self) -> Any:
        """The body as JSON. Raises NotJson."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise NotJson(f"{self.content_type or 'no content type'}: {self.snippet or 'empty'}") from None


def get(
    url: str, timeout_seconds: float, limit_bytes: int = LIMIT_BYTES, token: SecretStr | None = None
) -> Response:
    """GET, with a bearer token if there is one. Follows no redirects; for this machine itself, no proxy of
    the environment is used.

    `timeout_seconds` bounds the whole call. Raises NoAnswer, and UsageError for a URL that is not http(s).
    """
    deadline = time.monotonic() + timeout_seconds
    started = time.monotonic()
    headers = {"Accept": "application/json", "User-Agent": f"mandate/{mandate.__version__}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    request = urllib.request.Request(checked(url), headers=headers)
    try:
        with _opener(url).open(request, timeout=timeout_seconds) as answer:
            body = _read(answer, deadline, limit_bytes)
            status, content_type = answer.status, answer.headers.get_content_type()
    except urllib.error.URLError as error:
        raise NoAnswer(_reason(error.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(_reason(error)) from None
    return Response(status, content_type, body, (time.monotonic() - started) * 1000)


def checked(url: str) -> str:
    """The URL, if it is an http or https one. Raises UsageError."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or any(character <= " " for character in url):
        raise UsageError(f"{url!r} is not an http or https URL", hint="example: http://localhost:3000")
    return url


def _read(answer: http.client.HTTPResponse, deadline: float, limit_bytes: int) -> bytes:
    """A server that drips bytes keeps every single read short of its timeout: the sum is bounded here."""
    chunks: list[bytes] = []
    size = 0
    while chunk := answer.read1(65_536):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit_bytes:
            raise NoAnswer(f"the answer is longer than {limit_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise NoAnswer("the answer did not end in time")
    return b"".join(chunks)


class _Plain(urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor):
    """Every status is an answer: nothing is followed, nothing is raised."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None

    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        return response

    https_response = http_response


def _opener(url: str) -> urllib.request.OpenerDirector:
    proxies = [urllib.request.ProxyHandler({})] if _is_loopback(urlsplit(url).hostname or "") else []
    return urllib.request.build_opener(_Plain, *proxies)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError):
        return "the connection was closed without an answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
