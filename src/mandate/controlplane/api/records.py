"""Routes that read the record: decisions, verdicts, timelines, domains."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mandate.controlplane.api import cursor, query, schemas
from mandate.controlplane.api.problems import (
    AMBIGUOUS,
    NO_SUCH_DECISION,
    NO_SUCH_DOMAIN,
    NO_SUCH_SCOPE,
    NO_SUCH_SNAPSHOT,
    NO_SUCH_SPEC,
    NO_VERDICT,
    Kind,
    Problem,
)
from mandate.controlplane.api.routing import (
    Services,
    found,
    get,
    json_response,
    list_page,
    no_parameters,
    problems,
    text_in_path,
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

    async def scopes(request: Request) -> Response:
        """Scopes, by organization and id."""
        return await list_page(request, query.SCOPES, cursor.SCOPES, store.scopes)

    async def specs(request: Request) -> Response:
        """Every version of every spec, by id, the newest first."""
        return await list_page(request, query.SPECS, cursor.SPECS, store.specs)

    async def policy_snapshots(request: Request) -> Response:
        """Policy snapshots, newest first. The one in force is its domain's with the highest version."""
        return await list_page(
            request, query.POLICY_SNAPSHOTS, cursor.POLICY_SNAPSHOTS, store.policy_snapshots
        )

    async def domain(request: Request) -> Response:
        """One domain, by its name or the UUID that it once had."""
        filters = query.parse(request.scope["query_string"], query.OF_ONE_DOMAIN)
        name = text_in_path(request, "domain")
        return _only(await store.domains(Selection(1, filters, domain=name)), NO_SUCH_DOMAIN, name)

    async def scope(request: Request) -> Response:
        """One scope, by its readable id or the UUID that it once had."""
        filters = query.parse(request.scope["query_string"], query.OF_ONE_DOMAIN)
        name = text_in_path(request, "scope_id")
        return _only(await store.scopes(Selection(1, filters, scope_id=name)), NO_SUCH_SCOPE, name)

    async def spec(request: Request) -> Response:
        """One version of a spec: the newest, unless another is asked for."""
        filters = query.parse(request.scope["query_string"], (query.VERSION,))
        name = text_in_path(request, "spec_id")
        page = await store.specs(Selection(1, {**filters, "spec_id": name}))
        return json_response(found(page.rows[0] if page.rows else None, NO_SUCH_SPEC, f"spec {name}"))

    async def policy_snapshot(request: Request) -> Response:
        """One policy snapshot."""
        snapshot_id = uuid_in_path(request, "snapshot_id")
        no_parameters(request)
        page = await store.policy_snapshots(Selection(1, {"snapshot_id": snapshot_id}))
        return _only(page, NO_SUCH_SNAPSHOT, snapshot_id)

    get(routes, "/decisions", decisions, schemas.Decisions, query.EVENTS)
    get(routes, "/verdicts", verdicts, schemas.Verdicts, query.EVENTS)
    get(routes, "/domains", domains, schemas.Domains, query.DOMAINS)
    get(routes, "/decisions/{decision_id}", decision, schemas.Decision)
    get(routes, "/decisions/{decision_id}/verdict", verdict, schemas.VerdictDocument)
    get(routes, "/decisions/{decision_id}/timeline", timeline, schemas.Timeline, query.PAGING)
    get(routes, "/scopes", scopes, schemas.Scopes, query.SCOPES)
    get(routes, "/specs", specs, schemas.Specs, query.SPECS)
    get(routes, "/policy-snapshots", policy_snapshots, schemas.PolicySnapshots, query.POLICY_SNAPSHOTS)
    get(routes, "/domains/{domain}", domain, schemas.Domain, query.OF_ONE_DOMAIN, problems(409))
    get(routes, "/scopes/{scope_id}", scope, schemas.Scope, query.OF_ONE_DOMAIN, problems(409))
    get(routes, "/specs/{spec_id}", spec, schemas.Spec, (query.VERSION,))
    get(routes, "/policy-snapshots/{snapshot_id}", policy_snapshot, schemas.PolicySnapshot)
    return routes


def _only(page: Page, kind: Kind, name: str) -> Response:
    if page.end is not None:
        raise Problem(AMBIGUOUS, f"{name}: say whose with organization_id", {"parameter": "organization_id"})
    return json_response(found(page.rows[0] if page.rows else None, kind, name))
