"""The HTTP application: routes, what they answer, and how trouble becomes a problem document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

import mandate
from mandate.controlplane.api import cursor, query, schemas
from mandate.controlplane.api.guard import Guard, answer
from mandate.controlplane.api.problems import (
    DATABASE_BUSY,
    DATABASE_UNAVAILABLE,
    INTERNAL,
    MALFORMED_PARAMETER,
    MALFORMED_REQUEST,
    MEDIA_TYPE,
    METHOD_NOT_ALLOWED,
    NO_SUCH_DECISION,
    NO_SUCH_PATH,
    NO_VERDICT,
    SCHEMA_UNKNOWN,
    Kind,
    Problem,
)
from mandate.controlplane.store import Page, SchemaChanging, Selection, Store
from mandate.errors import (
    AuthenticationFailed,
    DatabaseError,
    DatabaseUnavailable,
    DiskFull,
    LockNotAvailable,
    NotMandate,
)
from mandate.postgres.pool import Pool

DESCRIPTION = """The record of what AI agents were about to do, and what Mandate answered.

Read-only. Everything under `/api` is under `/api/v1` too. Lists are newest first; follow `next_cursor` to the
end. A parameter that is unknown, malformed or given twice is a 400, never ignored. Problems are
`application/problem+json` (RFC 9457) with a stable `type`.
"""

_DECISION_ID = {
    "name": "decision_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
    "example": "6f1c0a52-8f7e-4a55-9f0b-8d1f0c1f7a10",
}


def application(pool: Pool) -> FastAPI:
    """The service on a pool, which is opened when the application starts and closed when it ends."""
    store = Store(pool)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(
        title="Mandate",
        version=mandate.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both load their scripts from somewhere else
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Guard)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(DatabaseError, _database_problem)
    app.add_exception_handler(NotMandate, _database_problem)
    records = _records(store)
    app.include_router(records, prefix="/api")
    app.include_router(records, prefix="/api/v1", include_in_schema=False)
    app.include_router(_probes(store))
    return app


def _records(store: Store) -> APIRouter:
    """Everything below /api."""
    router = APIRouter(responses=_problems(400, 500, 503), tags=["record"])

    async def decisions(request: Request) -> Response:
        """Decisions with their latest verdict, newest first."""
        return await _list(request, query.EVENTS, cursor.DECISIONS, store.decisions)

    async def verdicts(request: Request) -> Response:
        """Verdicts, newest first."""
        return await _list(request, query.EVENTS, cursor.VERDICTS, store.verdicts)

    async def domains(request: Request) -> Response:
        """Domains, by organization and name."""
        return await _list(request, query.DOMAINS, cursor.DOMAINS, store.domains)

    async def decision(request: Request) -> Response:
        """One decision."""
        decision_id = _decision_id(request)
        query.parse(request.scope["query_string"], ())
        return _json(_found(await store.decision(decision_id), NO_SUCH_DECISION, decision_id))

    async def verdict(request: Request) -> Response:
        """The latest verdict on a decision."""
        decision_id = _decision_id(request)
        query.parse(request.scope["query_string"], ())
        found = await store.verdict(decision_id)
        if found is None:
            _found(await store.decision(decision_id), NO_SUCH_DECISION, decision_id)
        return _json(_found(found, NO_VERDICT, decision_id))

    async def timeline(request: Request) -> Response:
        """What happened to a decision, oldest first."""
        decision_id = _decision_id(request)

        async def entries(chosen: Selection) -> Page:
            page = await store.timeline(chosen)
            if not page.rows:
                _found(await store.decision(decision_id), NO_SUCH_DECISION, decision_id)
            return page

        return await _list(
            request, query.PAGING, cursor.TIMELINE, entries, fixed={"decision_id": decision_id}
        )

    async def health(_request: Request) -> Response:
        """Whether the service can answer: 200, or 503 with the reason."""
        body = {"status": "ok", "version": mandate.__version__, "schema_version": await _ready(store)}
        return _json(json.dumps(body))

    _get(router, "/decisions", decisions, schemas.Decisions, query.EVENTS)
    _get(router, "/verdicts", verdicts, schemas.Verdicts, query.EVENTS)
    _get(router, "/domains", domains, schemas.Domains, query.DOMAINS)
    _get(router, "/decisions/{decision_id}", decision, schemas.Decision)
    _get(router, "/decisions/{decision_id}/verdict", verdict, schemas.VerdictDocument)
    _get(router, "/decisions/{decision_id}/timeline", timeline, schemas.Timeline, query.PAGING)
    _get(router, "/health", health, schemas.Health)
    return router


def _probes(store: Store) -> APIRouter:
    """What a supervisor asks."""
    router = APIRouter(tags=["probes"])

    async def healthz(_request: Request) -> Response:
        """The process is alive; says nothing about the database."""
        return _json('{"status": "alive"}')

    async def readyz(_request: Request) -> Response:
        """The database is reachable and its schema is known."""
        return _json(json.dumps({"status": "ready", "schema_version": await _ready(store)}))

    router.add_api_route("/healthz", healthz, response_class=Response)
    router.add_api_route("/readyz", readyz, response_class=Response, responses=_problems(503))
    return router


Handler = Callable[[Request], Awaitable[Response]]


def _get(
    router: APIRouter,
    path: str,
    handler: Handler,
    model: type[Any],
    parameters: tuple[query.Parameter, ...] = (),
) -> None:
    described = [parameter.openapi() for parameter in parameters]
    single = "{decision_id}" in path
    router.add_api_route(
        path,
        handler,
        response_class=Response,
        responses={200: {"model": model}, **(_problems(404) if single else {})},
        openapi_extra={"parameters": [_DECISION_ID, *described] if single else described},
    )


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = schemas.ProblemDocument.model_json_schema()
    return {
        status: {"description": "Problem", "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


async def _list(
    request: Request,
    parameters: tuple[query.Parameter, ...],
    order: cursor.Order,
    read: Callable[[Selection], Awaitable[Page]],
    fixed: dict[str, str] | None = None,
) -> Response:
    chosen = query.selection(request.scope["query_string"], parameters, order, fixed)
    page = await read(chosen)
    following = json.dumps(query.next_cursor(chosen, page.end, order))
    return _json(f'{{"{order.name}": [{", ".join(page.rows)}], "next_cursor": {following}}}')


def _json(body: str) -> Response:
    return Response(body, media_type="application/json")


def _decision_id(request: Request) -> str:
    try:
        return query.uuid(request.path_params["decision_id"])
    except ValueError as wanted:
        raise Problem(MALFORMED_PARAMETER, f"decision_id: {wanted}", {"parameter": "decision_id"}) from None


def _found(body: str | None, kind: Kind, decision_id: str) -> str:
    if body is None:
        raise Problem(kind, f"decision {decision_id}")
    return body


async def _ready(store: Store) -> int:
    try:
        version = await store.schema_version()
    except DatabaseError as error:
        # Said without the cause: not being ready yet is an answer, not trouble.
        raise Problem(_database_kind(error), "not ready") from None
    if version is None:
        raise Problem(SCHEMA_UNKNOWN, "not ready: neither version 7 nor version 8 of Mandate's schema")
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
        problem = Problem(METHOD_NOT_ALLOWED, "read-only: GET and HEAD", headers={"Allow": "GET, HEAD"})
    else:
        problem = Problem(MALFORMED_REQUEST, "the request was refused")
    return answer(request, problem)


async def _database_problem(request: Request, error: Exception) -> Response:
    kind = _database_kind(error)
    if kind is MALFORMED_PARAMETER:
        return answer(request, Problem(kind, "a value is outside of what the database can compare"))
    detail = "the log has the reason, under this instance" if kind is INTERNAL else "try again shortly"
    return answer(request, Problem(kind, detail), error)


def _database_kind(error: Exception) -> Kind:
    sqlstate = error.sqlstate if isinstance(error, DatabaseError) else None
    if isinstance(error, NotMandate | SchemaChanging):
        return SCHEMA_UNKNOWN
    if isinstance(error, LockNotAvailable) or sqlstate == "57014":
        return DATABASE_BUSY
    if isinstance(error, DatabaseUnavailable | AuthenticationFailed | DiskFull):
        return DATABASE_UNAVAILABLE
    if sqlstate is not None and sqlstate.startswith("22"):
        return MALFORMED_PARAMETER
    return INTERNAL
