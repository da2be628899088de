"""Request bodies: what may come in, how much of it, and in which form."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Receive

from mandate.controlplane.api.problems import (
    BODY_TOO_LARGE,
    INCOMPLETE_BODY,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
)

MAX_BODY = 256 * 1024
MAX_BATCH = 16 * 1024 * 1024


async def read(request: Request, *, media_type: str = "application/json", limit: int = MAX_BODY) -> bytes:
    """The whole body. Raises Problem: 415 for another form, 413 beyond the limit, 400 where it is cut off."""
    check_form(request, media_type, limit)
    return await receive_all(request.receive, limit)


def check_form(request: Request, media_type: str, limit: int) -> None:
    """Refuse what the headers tell already. A declared length is trusted only to refuse."""
    given, _, parameters = request.headers.get("content-type", "").partition(";")
    if given.strip().lower() != media_type:
        raise Problem(UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {media_type}")
    if parameters.strip() and parameters.strip().lower().replace('"', "") not in (
        "charset=utf-8",
        "charset=utf8",
    ):
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "the body must be UTF-8")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise too_large(limit)


async def receive_all(receive: Receive, limit: int) -> bytes:
    """The body from the connection, given up as soon as it is too large."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(INCOMPLETE_BODY, "the connection ended before the body did")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def too_large(limit: int, lines: int | None = None) -> Problem:
    """413 with the limit in bytes, and in lines where there is one."""
    also = "" if lines is None else f" and {lines} lines"
    return Problem(BODY_TOO_LARGE, f"a body may have {limit} bytes{also} here", {"limit": limit})
