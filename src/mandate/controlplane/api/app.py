"""The HTTP application: its parts, and how trouble becomes a problem document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import mandate
from mandate.controlplane.access.authority import Authority
from mandate.controlplane.access.noticing import notice
from mandate.controlplane.api import access, admin, decisions, page, records, schemas
from mandate.controlplane.api.direct import Direct
from mandate.controlplane.api.express import Express
from mandate.controlplane.api.guard import Guard, answer
from mandate.controlplane.api.problems import (
    MALFORMED_REQUEST,
    METHOD_NOT_ALLOWED,
    NO_SUCH_PATH,
    SCHEMA_UNKNOWN,
    Problem,
)
from mandate.controlplane.api.routing import Services, get, json_response, problems
from mandate.controlplane.api.trouble import database_kind, problem_of
from mandate.controlplane.catalogue import Catalogue
from mandate.controlplane.metrics import MEDIA_TYPE, Metrics
from mandate.controlplane.recorder import Recorder
from mandate.controlplane.store import Store
from mandate.errors import DatabaseError, NotMandate
from mandate.postgres.pool import Pool

# Each makes the routes of one part, below /api and /api/v1.
PARTS = (decisions.router, records.router, admin.router)

DESCRIPTION = """The decision point and the record of what AI agents were about to do.

Everything under `/api` is under `/api/v1` too. Lists are newest first; follow `next_cursor` to the end. A
parameter that is unknown, malformed or given twice is a 400, never ignored. What lies outside of a token's
organization and domains is not there for it. Problems are
`application/problem+json` (RFC 9457) with a stable `type`.
"""


Background = Callable[[Catalogue], Coroutine[Any, Any, None]]

_AUTHORIZED = [Depends(access.authorize)]


class _Application(FastAPI):
    """FastAPI, whose document says what each operation takes, with a door of our own before all of it."""

    _door: ASGIApp | None = None

    def enter_by(self, door: ASGIApp) -> None:
        """Every request goes through the door, which ends in `handle`."""
        self._door = door

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What FastAPI makes of a request."""
        await super().__call__(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._door or self.handle)(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = access.describe(super().openapi())
        return self.openapi_schema


def application(
    reading: Pool, writing: Pool, background: Background | None = None, *, closed: bool = False
) -> FastAPI:
    """The service on two pools, which are opened when the application starts and closed when it ends.

    `background` runs for as long as the application, with its catalogue. `closed`: no request is answered
    without a token, whether or not there are any.
    """
    store, metrics = Store(reading), Metrics()
    catalogue = Catalogue(store)
    authority = Authority(reading, closed=closed)
    services = Services(store, catalogue, Recorder(writing, store, catalogue, metrics), writing, metrics)
    express = Express(services.recorder, metrics, authority)
    metrics.gauges(lambda: _readings(services, reading))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with reading, writing:
            tasks = [asyncio.create_task(notice(reading, writing))]
            if background is not None:
                tasks.append(asyncio.create_task(background(catalogue)))
            try:
                yield {"express": express}
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    app = _Application(
        title="Mandate",
        version=mandate.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both load their scripts from somewhere else; see `page`
        redoc_url=None,
        redirect_slashes=False,
        responses=problems(400, 414, 421, 431),
    )
    admit = access.doorkeeper(authority, problem_of)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(DatabaseError, _trouble)
    app.add_exception_handler(NotMandate, _trouble)
    routers = [part(services) for part in (*PARTS, _health)]
    for router in routers:
        app.include_router(router, prefix="/api", dependencies=_AUTHORIZED)
        app.include_router(router, prefix="/api/v1", include_in_schema=False, dependencies=_AUTHORIZED)
    probes = _probes(services)
    app.include_router(probes, dependencies=_AUTHORIZED)
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.state.routers = [*routers, probes]
    app.enter_by(Guard(Direct(app.handle, decisions.decide(services)), metrics, admit))
    return app


def _health(services: Services) -> APIRouter:
    router = APIRouter(responses=problems(500, 503), tags=["probes"])

    async def health(_request: Request) -> Response:
        """Whether the service can answer: 200, or 503 with the reason."""
        version = await _ready(services.store)
        body = {"status": "ok", "version": mandate.__version__, "schema_version": version}
        return json_response(json.dumps(body))

    get(router, "/health", health, schemas.Health)
    return router


def _probes(services: Services) -> APIRouter:
    """What a supervisor asks."""
    router = APIRouter(tags=["probes"])

    async def healthz(_request: Request) -> Response:
        """The process is alive; says nothing about the database."""
        return json_response('{"status": "alive"}')

    async def readyz(_request: Request) -> Response:
        """The database is reachable and its schema is known."""
        return json_response(json.dumps({"status": "ready", "schema_version": await _ready(services.store)}))

    async def measured(_request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(services.metrics.text(), media_type=MEDIA_TYPE)

    router.add_api_route(
        "/metrics",
        measured,
        response_class=Response,
        responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}},
    )
    router.add_api_route("/healthz", healthz, response_class=Response)
    router.add_api_route("/readyz", readyz, response_class=Response, responses=problems(503))
    return router


async def _docs(request: Request) -> Response:
    """The description as a page, made when it is first asked for."""
    state = request.app.state
    if not hasattr(state, "docs"):
        state.docs = await asyncio.to_thread(page.render, request.app.openapi())
    return HTMLResponse(state.docs, headers=dict(page.headers()))


def _readings(services: Services, reading: Pool) -> Iterator[tuple[str, str, dict[str, str], float]]:
    ages = services.catalogue.ages
    yield "mandate_catalogue_domains", "Domains whose definitions are in memory", {}, len(ages)
    age = "Age of the oldest definitions in memory; each is checked by every decision that uses it"
    yield "mandate_catalogue_oldest_seconds", age, {}, max(ages, default=0.0)
    yield "mandate_decisions_in_flight", "Decisions being written", {}, services.recorder.groups.in_flight
    text = "psycopg_pool's figures of the pool"
    for name, pool in (("reading", reading), ("writing", services.writing)):
        for figure, value in sorted(pool.statistics().items()):
            yield "mandate_pool", text, {"pool": name, "figure": figure}, value


async def _ready(store: Store) -> int:
    try:
        version = await store.schema_version()
    except DatabaseError as error:
        # Said without the cause: not being ready yet is an answer, not trouble.
        raise Problem(database_kind(error), "not ready") from None
    if version is None:
        raise Problem(SCHEMA_UNKNOWN, "not ready: no version of Mandate's schema that it knows (7 to 9)")
    return version


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(request, error)


async def _http_problem(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no route, or a route without the method."""
    assert isinstance(error, HTTPException)
    if error.status_code == NO_SUCH_PATH.status:
        problem = Problem(NO_SUCH_PATH, "see /openapi.json for what is here")
    elif error.status_code == METHOD_NOT_ALLOWED.status:
        allowed = ", ".join(_allowed(request))
        problem = Problem(METHOD_NOT_ALLOWED, f"takes {allowed}", headers={"Allow": allowed})
    else:
        problem = Problem(MALFORMED_REQUEST, "the request was refused")
    return answer(request, problem)


def _allowed(request: Request) -> list[str]:
    """The methods of every route with this path."""
    path = "/" + request.scope["path"].removeprefix("/").removeprefix("api/").removeprefix("v1/")
    routes = (route for router in request.app.state.routers for route in router.routes)
    methods = {
        m for r in routes if isinstance(r, Route) and r.path_regex.match(path) for m in r.methods or ()
    }
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _trouble(request: Request, error: Exception) -> Response:
    return answer(request, problem_of(error), error)
