"""What routes have in common: how they are declared, and how JSON and refusals leave."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from mandate.controlplane.api import cursor, query
from mandate.controlplane.api.problems import MALFORMED_PARAMETER, MEDIA_TYPE, Kind, Problem
from mandate.controlplane.catalogue import Catalogue
from mandate.controlplane.metrics import Metrics
from mandate.controlplane.recorder import Recorder
from mandate.controlplane.store import Page, Selection, Store
from mandate.postgres.pool import Pool

Handler = Callable[[Request], Awaitable[Response]]

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_UUID = {"type": "string", "format": "uuid"}
_TEXT = {"type": "string", "minLength": 1, "maxLength": query.MAX_TEXT}
_IN_PATH: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "decision_id": (_UUID, "6f1c0a52-8f7e-4a55-9f0b-8d1f0c1f7a10"),
    "snapshot_id": (_UUID, "a0000002-0000-4000-8000-000000000002"),
    "domain": (_TEXT, "finance"),
    "scope_id": (_TEXT, "finance.prod.payments.refund-agent"),
    "spec_id": (_TEXT, "finance.refund"),
}


@dataclass(frozen=True)
class Services:
    """What handlers work with: the record, what decides, and what writes. `writing` is its pool."""

    store: Store
    catalogue: Catalogue
    recorder: Recorder
    writing: Pool
    metrics: Metrics


def get(
    router: APIRouter,
    path: str,
    handler: Handler,
    model: type[Any],
    parameters: tuple[query.Parameter, ...] = (),
    also: Mapping[int | str, dict[str, Any]] | None = None,
) -> None:
    """A route that reads. `also` are answers of its own."""
    described = [parameter.openapi() for parameter in parameters]
    single = "{" in path
    router.add_api_route(
        path,
        handler,
        response_class=Response,
        responses={200: {"model": model}, **(problems(404) if single else {}), **(also or {})},
        openapi_extra={"parameters": [*path_parameters(path), *described]},
    )


def path_parameters(path: str) -> list[dict[str, Any]]:
    """The OpenAPI description of what stands in braces in a path."""
    return [
        {"name": name, "in": "path", "required": True, "schema": dict(schema), "example": example}
        for name, (schema, example) in _IN_PATH.items()
        if f"{{{name}}}" in path
    ]


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model without references: those would be looked up in the OpenAPI document."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolved(definitions[value["$ref"].rpartition("/")[2]])
            return {key: resolved(each) for key, each in value.items()}
        return [resolved(each) for each in value] if isinstance(value, list) else value

    found: dict[str, Any] = resolved(schema)
    return found


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problem answers for an OpenAPI description."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
        for status in statuses
    }


async def list_page(
    request: Request,
    parameters: tuple[query.Parameter, ...],
    order: cursor.Order,
    read: Callable[[Selection], Awaitable[Page]],
    fixed: Mapping[str, str] | None = None,
) -> Response:
    """A page as `{"<name>": [...], "next_cursor": ...}`."""
    chosen = query.selection(request.scope["query_string"], parameters, order, fixed)
    page = await read(chosen)
    following = json.dumps(query.next_cursor(chosen, page.end, order))
    return json_response(f'{{"{order.name}": [{", ".join(page.rows)}], "next_cursor": {following}}}')


def json_response(body: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON text as an answer."""
    return Response(body, status, headers, media_type="application/json")


def uuid_in_path(request: Request, name: str) -> str:
    """A UUID of the path, lower case. Raises Problem (400)."""
    try:
        return query.uuid(request.path_params[name])
    except ValueError as wanted:
        raise Problem(MALFORMED_PARAMETER, f"{name}: {wanted}", {"parameter": name}) from None


def text_in_path(request: Request, name: str) -> str:
    """A name of the path. Raises Problem (400)."""
    try:
        return query.text(request.path_params[name])
    except ValueError as wanted:
        raise Problem(MALFORMED_PARAMETER, f"{name}: {wanted}", {"parameter": name}) from None


def no_parameters(request: Request) -> None:
    """Refuse a query string. Raises Problem (400)."""
    query.parse(request.scope["query_string"], ())


def found(body: str | None, kind: Kind, what: str) -> str:
    """The body, or Problem of that kind."""
    if body is None:
        raise Problem(kind, what)
    return body
