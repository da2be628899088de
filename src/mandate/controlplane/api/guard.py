"""The outermost layer: what never reaches a handler, and one log line for every request."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import uuid4

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mandate.controlplane import logs
from mandate.controlplane.access.principal import Principal, acting_as
from mandate.controlplane.api.problems import (
    HEADERS_TOO_LARGE,
    HOST_NOT_ALLOWED,
    INTERNAL,
    MALFORMED_REQUEST,
    URL_TOO_LONG,
    Problem,
)
from mandate.controlplane.api.query import decoded
from mandate.controlplane.intake import Posted
from mandate.controlplane.metrics import Metrics
from mandate.controlplane.store import UUID_PATTERN

MAX_URL_BYTES = 16 * 1024
MAX_HEADER_BYTES = 16 * 1024

log = structlog.get_logger(logs.REQUEST_LOGGER)

Admit = Callable[[Request], Awaitable[Principal | None]]

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.%]+\]|[^:\[\]/@\s]+)(:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Begun:
    """How far a request came on the short way (see `express`) that the long way has to finish.

    `error` is the end of it; without one nothing is written.
    """

    started: float
    posted: Posted
    error: Exception | None


def begun(scope: Scope) -> Begun | None:
    """What of a request is done already."""
    found: Begun | None = scope.get("mandate.begun")
    return found


@dataclass
class Exchange:
    """One request on its way: handlers leave here what the log line should say."""

    request_id: str = field(default_factory=lambda: str(uuid4()))
    started: float = field(default_factory=time.perf_counter)
    status: int | None = None
    decision_id: str | None = None
    problem: str | None = None
    reason: str | None = None
    cause: BaseException | None = None
    token_id: str | None = None


def exchange(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    found: Exchange = request.scope["mandate.exchange"]
    return found


def answer(request: Request, problem: Problem, cause: Exception | None = None) -> Response:
    """A problem as the answer. The log gets the cause: a traceback of what nobody expected, else its text."""
    note(request, problem, cause)
    return problem.response(exchange(request).request_id)


def note(request: Request, problem: Problem, cause: Exception | None = None) -> None:
    """Let the log line of a request tell of a problem."""
    current = exchange(request)
    current.problem = problem.kind.name
    if problem.kind is INTERNAL:
        current.cause = cause
    elif cause is not None:
        current.reason = str(cause)


class Guard:
    """ASGI middleware. Refuses what is too long or malformed, and whom `admit` does not let in.

    `admit` gives the principal that the rest of the request acts for, None where it acts for nobody.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, admit: Admit) -> None:
        self._app = app
        self._metrics = metrics
        self._admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        before = begun(scope)
        current = Exchange(started=before.started) if before else Exchange()
        # HEAD is GET whose body the server leaves out.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        inner: Scope = {**scope, "method": method, "mandate.exchange": current}

        async def note_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                current.status = message["status"]
                request_id = (b"x-request-id", current.request_id.encode())
                message["headers"] = [*message.get("headers", []), request_id]
            await send(message)

        try:
            await self._guarded(inner, receive, note_status)
        finally:
            method = method if "endpoint" in inner else "?"
            self._metrics.request(method, current.status or 0)
            _log(scope["method"], inner, current)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            _check(scope)
            principal = await self._admit(request)
            if principal is None:
                await self._app(scope, receive, send)
                return
            exchange(request).token_id = principal.token_id
            with acting_as(principal):
                await self._app(scope, receive, send)
        except Problem as problem:
            cause = problem.__cause__
            refused = answer(request, problem, cause if isinstance(cause, Exception) else None)
            await refused(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the last place: logged with its traceback, answered as 500
            await self._broke(request, error, receive, send)

    async def _broke(self, request: Request, error: Exception, receive: Receive, send: Send) -> None:
        current = exchange(request)
        current.cause = error
        if current.status is None:  # else the answer is under way and can only be cut off
            problem = Problem(INTERNAL, "the log has the reason, under this instance")
            await answer(request, problem, error)(request.scope, receive, send)


def _check(scope: Scope) -> None:
    raw_path: bytes = scope.get("raw_path") or b""
    if len(raw_path) + len(scope["query_string"]) > MAX_URL_BYTES:
        raise Problem(URL_TOO_LONG, f"path and query may have {MAX_URL_BYTES} bytes")
    if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise Problem(HEADERS_TOO_LARGE, f"all headers together may have {MAX_HEADER_BYTES} bytes")
    decoded(raw_path)
    if sum(name == b"host" for name, _ in scope["headers"]) > 1:
        raise Problem(MALFORMED_REQUEST, "more than one Host header")


def check_host(request: Request) -> None:
    """Refuse a name that is not loopback's. Raises Problem (421).

    It keeps a web page in a browser on this machine from reading the record through a name of its own (DNS
    rebinding), as long as no token is needed.
    """
    hosts = [value for name, value in request.scope["headers"] if name == b"host"]
    if hosts and not is_loopback_name(hosts[0].decode("latin-1")):
        raise Problem(
            HOST_NOT_ALLOWED, "without configured tokens the service answers to loopback names only"
        )


def is_loopback_name(host: str) -> bool:
    """Whether a Host header names this machine: localhost, *.localhost or a loopback address."""
    match = _HOST.fullmatch(host)
    if not match:
        return False
    name = match["name"].strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _log(method: str, scope: Scope, current: Exchange) -> None:
    fields: dict[str, object] = {
        "request_id": current.request_id,
        "method": method,
        "path": _path(scope),
        "status": current.status,
        "ms": round((time.perf_counter() - current.started) * 1000, 2),
    }
    if current.token_id:
        fields["token_id"] = current.token_id
    if decision_id := current.decision_id or _asked_for(scope):
        fields["decision_id"] = decision_id
    if current.problem:
        fields["problem"] = current.problem
    ours = current.status is None or current.status >= 500
    if current.reason is not None:
        fields["reason"] = current.reason
    if current.cause is not None:
        log.error("request", exc_info=current.cause, **fields)
    elif ours and current.reason is not None:
        log.error("request", **fields)
    elif ours:
        log.warning("request", **fields)
    else:
        logs.request(fields)


def _asked_for(scope: Scope) -> str | None:
    """The decision that the path names, if that is a UUID at all."""
    found = str(scope.get("path_params", {}).get("decision_id", ""))
    return found.lower() if UUID_PATTERN.fullmatch(found) else None


def _path(scope: Scope) -> str:
    """The path if it leads somewhere, without what a caller made up: query values may be private, and a
    caller who asks for `/failover` must not look like trouble to somebody who greps the log."""
    if "endpoint" not in scope:
        return "?"
    made_up = {str(value) for value in scope.get("path_params", {}).values()}
    segments = str(scope["path"]).split("/")
    return "/".join("?" if s in made_up and not UUID_PATTERN.fullmatch(s) else s for s in segments)
