"""Routes that create what decisions are judged by: append-only, with the checks and statements of
`mandate apply`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from mandate.controlplane.access.about import EVERYTHING, organizations
from mandate.controlplane.api import bodies, schemas
from mandate.controlplane.api.problems import (
    CONFLICT,
    DATABASE_UNAVAILABLE,
    INVALID_DOCUMENT,
    MALFORMED_BODY,
    NEEDS_VERSION_8,
    OUTSIDE_TOKEN,
    Kind,
    Problem,
)
from mandate.controlplane.api.routing import Services, json_response, no_parameters, problems
from mandate.controlplane.governance import documents, shapes, source, store
from mandate.controlplane.governance.planning import Change
from mandate.controlplane.governance.source import InvalidDocument
from mandate.controlplane.store import Reach
from mandate.errors import NoDatabase

APPLICATION_NAME = "mandate-serve"
STATEMENT_SECONDS = 10.0
AT_ONCE = 4

_ORGANIZATION = "00000000-0000-0000-0000-000000000001"
_WHERE = {"organization_id": _ORGANIZATION, "domain": "payouts"}


@dataclass(frozen=True)
class _Entry:
    """A path, the body that it takes with an example, what it answers, and the kind of change it makes."""

    path: str
    takes: type[BaseModel]
    answers: type[BaseModel]
    kind: str
    example: Mapping[str, Any]


_ENTRIES = (
    _Entry(
        "/organizations",
        shapes.Organization,
        schemas.Organization,
        "organization",
        {"name": "Acme", "description": "An example"},
    ),
    _Entry(
        "/domains",
        shapes.PostedDomain,
        schemas.Domain,
        "domain",
        {**_WHERE, "description": "Money that leaves the house"},
    ),
    _Entry(
        "/scopes",
        shapes.PostedScope,
        schemas.Scope,
        "scope",
        {
            **_WHERE,
            "scope_id": "payouts.prod.payments",
            "environment": "prod",
            "service": "payments",
            "owning_team": "Payments",
        },
    ),
    _Entry(
        "/specs",
        shapes.PostedSpec,
        schemas.Spec,
        "spec",
        {
            **_WHERE,
            "spec_id": "payouts.pay-out",
            "intent": "pay_out",
            "stage": "pre_commit",
            "allowed_verdicts": ["ALLOW", "PAUSE", "BLOCK"],
            "signals": [{"name": "amount", "type": "number", "required": True}],
            "enforcement": {"default_verdict": "ALLOW"},
        },
    ),
    _Entry(
        "/policy-snapshots",
        shapes.PostedSnapshot,
        schemas.PolicySnapshot,
        "policies",
        {
            **_WHERE,
            "policies": [
                {
                    "id": "pause-large",
                    "spec_id": "payouts.pay-out",
                    "scope_id": "payouts.prod.payments",
                    "conditions": [{"field": "amount", "operator": ">", "value": 500}],
                    "verdict": "PAUSE",
                }
            ],
        },
    ),
)


def router(services: Services) -> APIRouter:
    """POST /organizations, /domains, /scopes, /specs and /policy-snapshots."""
    routes = APIRouter(responses=problems(400, 500, 503), tags=["governance"])
    free = asyncio.Semaphore(AT_ONCE)
    for entry in _ENTRIES:
        _post(routes, services, entry, free)
    return routes


def _post(routes: APIRouter, services: Services, entry: _Entry, free: asyncio.Semaphore) -> None:
    async def create(request: Request) -> Response:
        no_parameters(request)
        body = await bodies.read(request)
        reach = await services.store.reach()
        async with free:
            change = await asyncio.to_thread(_create, services, body, entry, reach)
        if change.created:
            services.catalogue.forget(change.row["organization_id"])
        shown = {name: change.row.get(name) for name in entry.answers.model_fields}
        return json_response(json.dumps(shown, ensure_ascii=False), 201 if change.created else 200)

    name = entry.path.strip("/").replace("-", " ").removesuffix("s")
    routes.add_api_route(
        entry.path,
        create,
        methods=["POST"],
        status_code=201,
        name=f"create {name}",
        summary=f"Create {name}",
        description=f"{entry.takes.__doc__}\n\nAppend-only: the same again answers 200 and changes nothing.",
        response_class=Response,
        responses={
            201: {"model": entry.answers, "description": "Created"},
            200: {"model": entry.answers, "description": "There already, and equal"},
            **problems(409, 413, 415, 422),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": _inlined(entry.takes.model_json_schema()),
                        "example": entry.example,
                    }
                },
            }
        },
    )


def _create(services: Services, body: bytes, entry: _Entry, reach: Reach | None) -> Change:
    """Runs in a thread: these are few, and share the statements of the command line. Raises Problem."""
    try:
        read = source.read_json(body)
    except InvalidDocument as error:
        raise _refused(MALFORMED_BODY, error.fields["defects"]) from None
    document = documents.parse_posted(read, entry.takes)
    try:
        if document.defects:
            store.refuse(read, document.defects)
        if reach is not None and not _inside(document, reach):
            raise Problem(OUTSIDE_TOKEN, "organization_id and domain are not those of the token")
        whose = EVERYTHING if reach is None else organizations([reach.organization_id])
        plan = store.write(
            services.writing.target, document, APPLICATION_NAME, seconds=STATEMENT_SECONDS, about=whose
        )
    except InvalidDocument as error:
        raise _refused(INVALID_DOCUMENT, error.fields["defects"]) from None
    except store.Conflict as error:
        raise _refused(CONFLICT, error.fields["defects"]) from None
    except store.Changed as error:
        raise Problem(CONFLICT, error.message) from None
    except store.NeedsVersion8 as error:
        raise Problem(NEEDS_VERSION_8, error.message) from None
    except NoDatabase:
        raise Problem(DATABASE_UNAVAILABLE, "there is no database yet") from None
    return next(change for change in plan.changes if change.kind == entry.kind)


def _inside(document: documents.Document, reach: Reach) -> bool:
    """Whether all that a posted body declares lies within what its sender may touch."""
    return all(
        entry.organization is not None
        and reach.holds(str(entry.organization.value.organization_id).lower(), domain.domain.value.domain)
        for entry in document.organizations
        for domain in entry.domains
    ) and any(entry.domains for entry in document.organizations)


def _refused(kind: Kind, defects: list[dict[str, Any]]) -> Problem:
    """A problem with every defect: its pointer into the body and what is wrong."""
    errors = [{"pointer": defect["pointer"], "detail": defect["message"]} for defect in defects]
    first = f"{errors[0]['pointer']}: {errors[0]['detail']}" if errors[0]["pointer"] else errors[0]["detail"]
    return Problem(kind, first, {"errors": errors})


def _inlined(schema: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """A JSON Schema without references: inside an OpenAPI document its own would point nowhere."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    known = schema.get("$defs", definitions)
    if "$ref" in schema and known is not None:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return {**_inlined(known[schema["$ref"].rpartition("/")[2]], known), **_inlined(rest, known)}
    return {key: _inlined(value, known) for key, value in schema.items() if key != "$defs"}
