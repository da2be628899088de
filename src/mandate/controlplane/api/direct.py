"""A short way for the one request that there are thousands of a second of: POST /api/decisions.

The route is declared to FastAPI like every other, which describes it; its own way there is as long as what
the handler does.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mandate.controlplane.api.access import permit
from mandate.controlplane.api.guard import answer
from mandate.controlplane.api.problems import Problem
from mandate.controlplane.api.routing import Handler
from mandate.controlplane.api.trouble import problem_of
from mandate.errors import DatabaseError, NotMandate

PATHS = frozenset(("/api/decisions", "/api/v1/decisions"))


class Direct:
    """ASGI: calls the handler itself, and leaves everything else to the application."""

    def __init__(self, app: ASGIApp, decide: Handler) -> None:
        self._app = app
        self._decide = decide

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = self._decide
        request = Request(scope, receive)
        try:
            permit("POST", "/decisions")
            response = await self._decide(request)
        except Problem as problem:
            response = answer(request, problem)
        except (DatabaseError, NotMandate) as error:
            response = answer(request, problem_of(error), error)
        await response(scope, receive, send)
