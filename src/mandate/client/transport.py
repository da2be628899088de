"""The two drivers of exchanges: one blocks, one awaits. Nothing else of the client knows httpx."""

from __future__ import annotations

import asyncio
import ssl
import time
from functools import lru_cache
from typing import TypeVar

import httpx

from mandate.client.core import Core
from mandate.client.errors import CannotSend
from mandate.client.protocol import Answer, Attempt, Lost, Steps, Wait

T = TypeVar("T")


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than a decision. SSL_CERT_FILE is respected.

    Raises CannotSend where that names nothing that can be read.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise CannotSend(
            f"the certificates to trust cannot be read: {error}",
            hint="SSL_CERT_FILE names a file of certificates (PEM), SSL_CERT_DIR a directory of them",
        ) from error


class Blocking:
    """Carries exchanges out in the calling thread; may be used by many threads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._http = httpx.Client(headers=core.headers(), verify=_certificates())

    def run(self, steps: Steps[T]) -> T:
        """The result of an exchange. Raises what it raises."""
        reply: Answer | Lost | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as ended:
                result: T = ended.value
                return result
            if isinstance(step, Wait):
                time.sleep(step.seconds)
                reply = None
            else:
                reply = self._attempt(step)

    def _attempt(self, attempt: Attempt) -> Answer | Lost:
        try:
            request = _built(self._http, self._core, attempt)
            response = self._http.send(request, stream=True)
            try:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    self._core.patience.check(attempt)
            finally:
                response.close()
        except (httpx.TransportError, httpx.DecodingError, TimeoutError) as error:
            return Lost(error)
        return _answer(response, b"".join(parts))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class Awaiting:
    """Carries exchanges out in an event loop; belongs to one."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._http = httpx.AsyncClient(headers=core.headers(), verify=_certificates())

    async def run(self, steps: Steps[T]) -> T:
        """The result of an exchange. Raises what it raises."""
        reply: Answer | Lost | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as ended:
                result: T = ended.value
                return result
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                reply = None
            else:
                reply = await self._attempt(step)

    async def _attempt(self, attempt: Attempt) -> Answer | Lost:
        try:
            request = _built(self._http, self._core, attempt)
            response = await self._http.send(request, stream=True)
            try:
                parts = []
                async for part in response.aiter_bytes():
                    parts.append(part)
                    self._core.patience.check(attempt)
            finally:
                await response.aclose()
        except (httpx.TransportError, httpx.DecodingError, TimeoutError) as error:
            return Lost(error)
        return _answer(response, b"".join(parts))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _built(http: httpx.Client | httpx.AsyncClient, core: Core, attempt: Attempt) -> httpx.Request:
    request = attempt.request
    return http.build_request(
        request.method,
        f"{core.base_url}/api/v1{request.path}",
        params=request.query or None,
        content=request.body,
        headers=request.headers,
        timeout=attempt.seconds,
    )


def _answer(response: httpx.Response, body: bytes) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, body)
