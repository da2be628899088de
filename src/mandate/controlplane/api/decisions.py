"""Routes that take decisions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mandate.controlplane import intake
from mandate.controlplane.api import bodies, schemas
from mandate.controlplane.api.guard import exchange
from mandate.controlplane.api.problems import (
    DECISION_CONFLICT,
    INVALID_DECISION,
    MALFORMED_BODY,
    NO_ACTIVE_SPEC,
    NO_POLICY_SNAPSHOT,
    UNKNOWN_DOMAIN,
    Problem,
)
from mandate.controlplane.api.routing import Services, json_response, no_parameters, problems
from mandate.controlplane.recorder import (
    DecisionConflict,
    NoActiveSpec,
    NoPolicySnapshot,
    Recorded,
    Refused,
    UnknownDomain,
)

_KINDS = {
    UnknownDomain: UNKNOWN_DOMAIN,
    NoActiveSpec: NO_ACTIVE_SPEC,
    NoPolicySnapshot: NO_POLICY_SNAPSHOT,
    DecisionConflict: DECISION_CONFLICT,
}


def router(services: Services) -> APIRouter:
    """POST /decisions."""
    routes = APIRouter(responses=problems(400, 500, 503), tags=["decisions"])

    async def decide(request: Request) -> Response:
        """Post a decision: it is judged and recorded before the answer leaves.

        The same decision_id with the same body again: 200 and the verdict that is recorded.
        """
        no_parameters(request)
        posted = read(await bodies.read(request), request.headers.get("traceparent"))
        exchange(request).decision_id = posted.decision_id
        return _answer(await record(services, posted))

    routes.add_api_route(
        "/decisions",
        decide,
        methods=["POST"],
        status_code=201,
        response_class=Response,
        responses={
            201: {"model": schemas.Judged, "description": "Judged and recorded"},
            200: {"model": schemas.Judged, "description": "Recorded before"},
            **problems(404, 409, 413, 415, 422),
        },
        openapi_extra=_takes(schemas.PostedDecision),
    )
    return routes


def read(body: bytes, traceparent: str | None) -> intake.Posted:
    """The decision in a body. Raises Problem (400, 422)."""
    try:
        return intake.read_decision(body, intake.read_traceparent(traceparent))
    except intake.MalformedBody as error:
        raise Problem(MALFORMED_BODY, error.message) from None
    except intake.InvalidDecision as error:
        raise Problem(INVALID_DECISION, error.message, error.fields) from None


async def record(services: Services, posted: intake.Posted) -> Recorded:
    """Judge and record. Raises Problem (404, 409, 422) and what the recorder raises."""
    try:
        return await services.recorder.record(posted)
    except Refused as error:
        raise Problem(_KINDS[type(error)], error.message) from None


def _answer(recorded: Recorded) -> Response:
    body = f'{{"decision": {recorded.decision}, "verdict": {recorded.verdict}}}'
    return json_response(body, 201 if recorded.created else 200)


def _takes(model: type[Any], media_type: str = "application/json") -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": model.model_json_schema()}}}}
