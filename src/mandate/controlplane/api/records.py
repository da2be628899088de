"""Routes that read the record: decisions, verdicts, timelines, domains."""

from __future__ import annotations

from collections.abc import Mapping

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
    problems,
    text_in_path,
    uuid_in_path,
)
from mandate.controlplane.store import Page, Selection, Store


def router(services: Services) -> APIRouter:
    """Everything below /api that reads."""
    store = services.store
    routes = APIRouter(responses=problems(400, 500, 503), tags=["record"])

    async def decisions(request: Request) -> Response:
        """Decisions with their latest verdict, last received first."""
        return await list_page(request, query.EVENTS, cursor.DECISIONS, store.decisions)

    async def verdicts(request: Request) -> Response:
        """Verdicts, newest first."""
        return await list_page(request, query.EVENTS, cursor.VERDICTS, store.verdicts)

    async def domains(request: Request) -> Response:
        """Domains, by organization and name."""
        return await list_page(request, query.DOMAINS, cursor.DOMAINS, store.domains)

    async def decision(request: Request) -> Response:
        """One decision."""
        chosen = await one_decision(store, request)
        return json_response(found(await store.decision(chosen), NO_SUCH_DECISION, _told(chosen)))

    async def verdict(request: Request) -> Response:
        """The latest verdict on a decision."""
        chosen = await one_decision(store, request)
        body = await store.verdict(chosen)
        if body is None:
            found(await store.decision(chosen), NO_SUCH_DECISION, _told(chosen))
        return json_response(found(body, NO_VERDICT, _told(chosen)))

    async def timeline(request: Request) -> Response:
        """What happened to a decision, oldest first."""
        fixed = {"decision_id": uuid_in_path(request, "decision_id")}

        async def entries(chosen: Selection) -> Page:
            await one_owner(store, chosen.filters)
            page = await store.timeline(chosen)
            if not page.rows:
                found(await store.decision(chosen.filters), NO_SUCH_DECISION, _told(fixed))
            return page

        return await list_page(request, query.TIMELINE, cursor.TIMELINE, entries, fixed)

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
        filters = query.parse(request.scope["query_string"], query.OF_ONE)
        name = text_in_path(request, "domain")
        return _only(await store.domains(Selection(1, filters, domain=name)), NO_SUCH_DOMAIN, name)

    async def scope(request: Request) -> Response:
        """One scope, by its readable id or the UUID that it once had."""
        filters = query.parse(request.scope["query_string"], query.OF_ONE)
        name = text_in_path(request, "scope_id")
        return _only(await store.scopes(Selection(1, filters, scope_id=name)), NO_SUCH_SCOPE, name)

    async def spec(request: Request) -> Response:
        """One version of a spec: the newest, unless another is asked for."""
        filters = query.parse(request.scope["query_string"], query.ONE_SPEC)
        name = text_in_path(request, "spec_id")
        await one_owner(store, {**filters, "spec_id": name})
        page = await store.specs(Selection(1, {**filters, "spec_id": name}))
        return json_response(found(page.rows[0] if page.rows else None, NO_SUCH_SPEC, f"spec {name}"))

    async def policy_snapshot(request: Request) -> Response:
        """One policy snapshot."""
        snapshot_id = uuid_in_path(request, "snapshot_id")
        filters = query.parse(request.scope["query_string"], query.OF_ONE)
        page = await store.policy_snapshots(Selection(1, {**filters, "snapshot_id": snapshot_id}))
        return _only(page, NO_SUCH_SNAPSHOT, snapshot_id)

    ambiguous = problems(409)
    get(routes, "/decisions", decisions, schemas.Decisions, query.EVENTS)
    get(routes, "/verdicts", verdicts, schemas.Verdicts, query.EVENTS)
    get(routes, "/domains", domains, schemas.Domains, query.DOMAINS)
    one = "/decisions/{decision_id}"
    get(routes, one, decision, schemas.Decision, query.OF_ONE, ambiguous)
    get(routes, one + "/verdict", verdict, schemas.VerdictDocument, query.OF_ONE, ambiguous)
    get(routes, one + "/timeline", timeline, schemas.Timeline, query.TIMELINE, ambiguous)
    get(routes, "/scopes", scopes, schemas.Scopes, query.SCOPES)
    get(routes, "/specs", specs, schemas.Specs, query.SPECS)
    get(routes, "/policy-snapshots", policy_snapshots, schemas.PolicySnapshots, query.POLICY_SNAPSHOTS)
    get(routes, "/domains/{domain}", domain, schemas.Domain, query.OF_ONE, ambiguous)
    get(routes, "/scopes/{scope_id}", scope, schemas.Scope, query.OF_ONE, ambiguous)
    get(routes, "/specs/{spec_id}", spec, schemas.Spec, query.ONE_SPEC, ambiguous)
    get(
        routes,
        "/policy-snapshots/{snapshot_id}",
        policy_snapshot,
        schemas.PolicySnapshot,
        query.OF_ONE,
        ambiguous,
    )
    return routes


async def one_decision(store: Store, request: Request) -> dict[str, str]:
    """The decision_id of the path, and whose decision is meant. Raises Problem."""
    decision_id = uuid_in_path(request, "decision_id")
    filters = query.parse(request.scope["query_string"], query.OF_ONE)
    chosen = {**filters, "decision_id": decision_id}
    await one_owner(store, chosen)
    return chosen


async def one_owner(store: Store, chosen: Mapping[str, str]) -> None:
    """Raises Problem where several organizations have what is asked for."""
    if await store.shared_by_organizations(chosen):
        raise _ambiguous(next(iter(chosen[name] for name in ("decision_id", "spec_id") if name in chosen)))


def _ambiguous(name: str) -> Problem:
    return Problem(AMBIGUOUS, f"{name}: say whose with organization_id", {"parameter": "organization_id"})


def _told(chosen: Mapping[str, str]) -> str:
    return f"decision {chosen['decision_id']}"


def _only(page: Page, kind: Kind, name: str) -> Response:
    if page.end is not None:
        raise _ambiguous(name)
    return json_response(found(page.rows[0] if page.rows else None, kind, name))
