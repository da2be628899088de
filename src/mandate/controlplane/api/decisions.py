"""Routes that take decisions, and what became of them."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from mandate.controlplane import intake, outcomes
from mandate.controlplane.api import batch, bodies, query, schemas
from mandate.controlplane.api.guard import begun, exchange
from mandate.controlplane.api.problems import NO_SUCH_DECISION, Problem
from mandate.controlplane.api.records import one_decision
from mandate.controlplane.api.routing import (
    Handler,
    Services,
    inlined,
    json_response,
    no_parameters,
    path_parameters,
    problems,
    uuid_in_path,
)
from mandate.controlplane.api.trouble import REFUSALS, problem_of
from mandate.controlplane.intake import Posted
from mandate.errors import MandateError


def router(services: Services) -> APIRouter:
    """POST /decisions, /decisions:batch and /decisions/{decision_id}/outcome."""
    routes = APIRouter(responses=problems(400, 413, 415, 500, 503), tags=["decisions"])
    routes.add_api_route(
        "/decisions",
        decide(services),
        methods=["POST"],
        status_code=201,
        response_class=Response,
        responses={
            201: {"model": schemas.Judged, "description": "Judged and recorded"},
            200: {"model": schemas.Judged, "description": "Recorded before"},
            **problems(404, 409, 422),
        },
        openapi_extra=takes(schemas.PostedDecision),
    )
    routes.add_api_route(
        "/decisions:batch",
        _batch(services),
        methods=["POST"],
        response_class=Response,
        responses={
            200: {
                "description": "A line for each line: `BatchLine` as NDJSON",
                "content": {batch.MEDIA_TYPE: {"schema": inlined(schemas.BatchLine)}},
            }
        },
        openapi_extra=takes(schemas.PostedDecision, batch.MEDIA_TYPE),
    )
    routes.add_api_route(
        "/decisions/{decision_id}/outcome",
        _outcome(services),
        methods=["POST"],
        status_code=201,
        response_class=Response,
        responses={
            201: {"model": schemas.TimelineEntry, "description": "Recorded"},
            200: {"model": schemas.TimelineEntry, "description": "Recorded before"},
            **problems(404, 409, 422),
        },
        openapi_extra={
            **takes(schemas.PostedOutcome),
            "parameters": [
                *path_parameters("/decisions/{decision_id}/outcome"),
                *(parameter.openapi() for parameter in query.OF_ONE),
            ],
        },
    )
    return routes


def decide(services: Services) -> Handler:
    """The handler of POST /decisions."""

    async def decide(request: Request) -> Response:
        """Post a decision: it is judged and recorded before the answer leaves.

        The same decision_id with the same body again: 200 and the verdict that is recorded.
        """
        no_parameters(request)
        try:
            posted = await _posted(services, request)
            exchange(request).decision_id = posted.decision_id
            recorded = await services.recorder.record(posted)
        except tuple(REFUSALS) as error:
            raise problem_of(error) from None
        answer = f'{{"decision": {recorded.decision}, "verdict": {recorded.verdict}}}'
        return json_response(answer, 201 if recorded.created else 200)

    return decide


async def _posted(services: Services, request: Request) -> Posted:
    if (before := begun(request.scope)) is not None:
        exchange(request).decision_id = before.posted.decision_id
        if before.error is not None:
            raise before.error
        return before.posted
    body = await bodies.read(request)
    began = perf_counter()
    posted = intake.read_decision(body, _traceparent(request))
    services.metrics.read.observe(perf_counter() - began)
    return posted


def _batch(services: Services) -> Handler:
    async def decide_many(request: Request) -> Response:
        """Post many decisions, one JSON object a line; each is all or nothing, and answered on its own line.

        `status` of a line is what a single post would have had; the answer itself is a 200.
        """
        no_parameters(request)
        bodies.check_form(request, batch.MEDIA_TYPE, bodies.MAX_BATCH)
        return batch.BatchResponse(services, request)

    return decide_many


def _outcome(services: Services) -> Handler:
    async def outcome(request: Request) -> Response:
        """Append what became of a decision to its timeline.

        The same again: 200 and the entry that is there.
        """
        decision_id = exchange(request).decision_id = uuid_in_path(request, "decision_id")
        chosen = await one_decision(services.store, request)
        try:
            said = outcomes.read_outcome(await bodies.read(request))
        except MandateError as error:
            raise problem_of(error) from None
        found = await outcomes.append(services.store, services.writing, chosen, said, _traceparent(request))
        if found is None:
            raise Problem(NO_SUCH_DECISION, f"decision {decision_id}")
        created, entry = found
        return json_response(entry, 201 if created else 200)

    return outcome


def _traceparent(request: Request) -> str | None:
    return intake.read_traceparent(request.headers.get("traceparent"))


def takes(model: type[BaseModel], media_type: str = "application/json") -> dict[str, Any]:
    """The OpenAPI description of a body."""
    return {"requestBody": {"required": True, "content": {media_type: {"schema": inlined(model)}}}}
