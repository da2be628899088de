"""Routes that read the record: decisions, verdicts, timelines, domains."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mandate.controlplane.api import cursor, query, schemas
from mandate.controlplane.api.problems import NO_SUCH_DECISION, NO_VERDICT
from mandate.controlplane.api.routing import (
    Services,
    found,
    get,
    json_response,
    list_page,
    no_parameters,
    problems,
    uuid_in_path,
)
from mandate.controlplane.store import Page, Selection


def router(services: Services) -> APIRouter:
    """Everything below /api that reads."""
    store = services.store
    routes = APIRouter(responses=problems(400, 500, 503), tags=["record"])

    async def decisions(request: Request) -> Response:
        """Decisions with their latest verdict, newest first."""
        return await list_page(request, query.EVENTS, cursor.DECISIONS, store.decisions)

    async def verdicts(request: Request) -> Response:
        """Verdicts, newest first."""
        return await list_page(request, query.EVENTS, cursor.VERDICTS, store.verdicts)

    async def domains(request: Request) -> Response:
        """Domains, by organization and name."""
        return await list_page(request, query.DOMAINS, cursor.DOMAINS, store.domains)

    async def decision(request: Request) -> Response:
        """One decision."""
        decision_id = uuid_in_path(request, "decision_id")
        no_parameters(request)
        body = await store.decision(decision_id)
        return json_response(found(body, NO_SUCH_DECISION, f"decision {decision_id}"))

    async def verdict(request: Request) -> Response:
        """The latest verdict on a decision."""
        decision_id = uuid_in_path(request, "decision_id")
        no_parameters(request)
        body = await store.verdict(decision_id)
        if body is None:
            found(await store.decision(decision_id), NO_SUCH_DECISION, f"decision {decision_id}")
        return json_response(found(body, NO_VERDICT, f"decision {decision_id}"))

    async def timeline(request: Request) -> Response:
        """What happened to a decision, oldest first."""
        decision_id = uuid_in_path(request, "decision_id")

        async def entries(chosen: Selection) -> Page:
            page = await store.timeline(chosen)
            if not page.rows:
                found(await store.decision(decision_id), NO_SUCH_DECISION, f"decision {decision_id}")
            return page

        fixed = {"decision_id": decision_id}
        return await list_page(request, query.PAGING, cursor.TIMELINE, entries, fixed)

    get(routes, "/decisions", decisions, schemas.Decisions, query.EVENTS)
    get(routes, "/verdicts", verdicts, schemas.Verdicts, query.EVENTS)
    get(routes, "/domains", domains, schemas.Domains, query.DOMAINS)
    get(routes, "/decisions/{decision_id}", decision, schemas.Decision)
    get(routes, "/decisions/{decision_id}/verdict", verdict, schemas.VerdictDocument)
    get(routes, "/decisions/{decision_id}/timeline", timeline, schemas.Timeline, query.PAGING)
    return routes
