"""Who may call what: the token of a request, and the roles that each operation takes.

An operation that is not in RULES takes no role at all: one that somebody adds is closed until it is thought
about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from mandate.controlplane.access.authority import Authority, NotAuthenticated
from mandate.controlplane.access.principal import Principal, Role, current
from mandate.controlplane.api.guard import Admit, check_host
from mandate.controlplane.api.problems import ROLE_NOT_ALLOWED, TOKEN_REQUIRED, Problem
from mandate.controlplane.api.routing import inlined, problems
from mandate.controlplane.api.schemas import ProblemDocument
from mandate.errors import DatabaseError

# Without a token even where there are tokens: of the process and of the software, not of the record.
OPEN = frozenset({"/healthz", "/readyz", "/health", "/openapi.json", "/docs"})

_EVERY = frozenset(Role)
_READERS = frozenset({Role.AUDITOR, Role.OPERATOR})
_AGENT = frozenset({Role.AGENT})
_OPERATOR = frozenset({Role.OPERATOR})

RULES: Mapping[tuple[str, str], frozenset[Role]] = {
    ("POST", "/decisions"): _AGENT,
    ("POST", "/decisions:batch"): _AGENT,
    ("POST", "/decisions/{decision_id}/outcome"): _AGENT,
    # An agent may ask what became of what it posted, and not what it would have to say to be let through.
    ("GET", "/decisions/{decision_id}"): _EVERY,
    ("GET", "/decisions/{decision_id}/verdict"): _EVERY,
    ("GET", "/decisions/{decision_id}/timeline"): _EVERY,
    ("GET", "/decisions"): _READERS,
    ("GET", "/verdicts"): _READERS,
    ("GET", "/domains"): _READERS,
    ("GET", "/domains/{domain}"): _READERS,
    ("GET", "/scopes"): _READERS,
    ("GET", "/scopes/{scope_id}"): _READERS,
    ("GET", "/specs"): _READERS,
    ("GET", "/specs/{spec_id}"): _READERS,
    ("GET", "/policy-snapshots"): _READERS,
    ("GET", "/policy-snapshots/{snapshot_id}"): _READERS,
    ("GET", "/metrics"): _READERS,
    # A token belongs to one organization: it cannot make another one.
    ("POST", "/organizations"): frozenset(),
    ("POST", "/domains"): _OPERATOR,
    ("POST", "/scopes"): _OPERATOR,
    ("POST", "/specs"): _OPERATOR,
    ("POST", "/policy-snapshots"): _OPERATOR,
}

SCHEME = "token"
SECURITY_SCHEMES = {
    SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "mdt_<id>_<secret>",
        "description": "Made by `mandate token create`. Not needed as long as there are no tokens.",
    }
}


def template(path: str) -> str:
    """The path of a route as RULES spells it: without /api and the version."""
    for prefix in ("/api/v1/", "/api/"):
        if path.startswith(prefix):
            return path[len(prefix) - 1 :]
    return path


def is_open(path: str) -> bool:
    """Whether a path is answered without a token."""
    return template(path) in OPEN


def doorkeeper(authority: Authority, problem_of: Callable[[Exception], Problem]) -> Admit:
    """What lets a request in. Raises Problem: 401 without a valid token, 421, or what a lookup runs into."""

    async def admit(request: Request) -> Principal | None:
        if is_open(request.scope["path"]):
            if not authority.closed:
                check_host(request)
            return None
        try:
            principal = await authority.principal(request.headers.getlist("authorization"))
        except NotAuthenticated as refused:
            raise _unauthorized(refused) from None
        except DatabaseError as error:
            raise problem_of(error) from error
        if principal.unrestricted:
            check_host(request)
        return principal

    return admit


async def authorize(request: Request) -> None:
    """Raise Problem (403) unless the operation that was asked for takes the role of the principal."""
    path = template(request.scope["route"].path)
    if path not in OPEN:
        permit(request.method, path)


def permit(method: str, path: str) -> None:
    """Raise Problem (403) unless the principal's role may do this; `path` as RULES spells it."""
    principal = current()
    allowed = RULES.get((method, path), frozenset())
    if principal.role is not None and principal.role not in allowed:
        roles = " or ".join(sorted(role.value for role in allowed))
        wanted = f"a token of role {roles} may" if roles else "no token may; `mandate apply` does it"
        raise Problem(ROLE_NOT_ALLOWED, f"role {principal.role.value} may not do this; {wanted}")


def _unauthorized(refused: NotAuthenticated) -> Problem:
    challenge = 'Bearer realm="mandate"'
    if refused.given:
        challenge += f', error="invalid_token", error_description="{refused.message}"'
    return Problem(TOKEN_REQUIRED, refused.message, headers={"WWW-Authenticate": challenge})


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add to an OpenAPI document what a token is, and which roles each operation takes."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = SECURITY_SCHEMES
    components.setdefault("schemas", {})["Problem"] = inlined(ProblemDocument)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if is_open(path):
                operation["security"] = []
                continue
            roles = RULES.get((method.upper(), template(path)), frozenset())
            operation["security"] = [{SCHEME: []}]
            operation["x-mandate-roles"] = sorted(role.value for role in roles)
            for status, answer in problems(401, 403).items():
                operation["responses"].setdefault(str(status), answer)
    return document
