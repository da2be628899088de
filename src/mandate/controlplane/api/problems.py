"""What the service answers when it cannot give what was asked for: RFC 9457 problem details.

A problem's `type` is stable; clients may compare it. No text of PostgreSQL ever reaches one. The words
"error", "fail" and "exception" stay out of the kinds: a caller's mistake must not look like our trouble to
somebody who greps the log for those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:mandate:problem:"
RETRY_AFTER_SECONDS = "2"


@dataclass(frozen=True)
class Kind:
    """A kind of problem: name (the end of its type URI), HTTP status, title."""

    name: str
    status: int
    title: str


MALFORMED_REQUEST = Kind("malformed-request", 400, "The request cannot be understood")
MALFORMED_PARAMETER = Kind("malformed-parameter", 400, "A parameter has a value that cannot be meant")
UNKNOWN_PARAMETER = Kind("unknown-parameter", 400, "There is no such parameter here")
REPEATED_PARAMETER = Kind("repeated-parameter", 400, "A parameter is given more than once")
MALFORMED_BODY = Kind("malformed-body", 400, "The body cannot be read")
INCOMPLETE_BODY = Kind("incomplete-body", 400, "The body was cut off")
TOKEN_REQUIRED = Kind("token-required", 401, "This needs a valid token")
ROLE_NOT_ALLOWED = Kind("role-not-allowed", 403, "The token's role may not do this")
OUTSIDE_TOKEN = Kind("outside-token", 403, "This lies outside of the token's organization or domains")
NO_SUCH_PATH = Kind("no-such-path", 404, "There is nothing at this path")
NO_SUCH_DECISION = Kind("no-such-decision", 404, "There is no decision with this id")
NO_VERDICT = Kind("no-verdict", 404, "There is no verdict on this decision")
NO_SUCH_DOMAIN = Kind("no-such-domain", 404, "There is no domain with this name")
NO_SUCH_SCOPE = Kind("no-such-scope", 404, "There is no scope with this id")
NO_SUCH_SPEC = Kind("no-such-spec", 404, "There is no spec with this id")
NO_SUCH_SNAPSHOT = Kind("no-such-policy-snapshot", 404, "There is no policy snapshot with this id")
UNKNOWN_DOMAIN = Kind("unknown-domain", 404, "There is no such domain")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "This path does not take this method")
AMBIGUOUS = Kind("ambiguous", 409, "More than one organization has something of this name")
DECISION_CONFLICT = Kind("decision-conflict", 409, "The decision is recorded already, with another body")
CONFLICT = Kind("conflict", 409, "What is recorded says otherwise, for ever")
NEEDS_VERSION_8 = Kind("needs-version-8", 409, "The database has to be migrated first")
BODY_TOO_LARGE = Kind("body-too-large", 413, "The body is too large")
UNSUPPORTED_MEDIA_TYPE = Kind("unsupported-media-type", 415, "The body has a form that is not read here")
URL_TOO_LONG = Kind("url-too-long", 414, "The path and query are too long")
HOST_NOT_ALLOWED = Kind("host-not-allowed", 421, "This service answers to loopback names only")
INVALID_DECISION = Kind("invalid-decision", 422, "The body is not a decision")
INVALID_OUTCOME = Kind("invalid-outcome", 422, "The body is not an outcome")
INVALID_DOCUMENT = Kind("invalid-document", 422, "The body cannot be meant")
NO_ACTIVE_SPEC = Kind("no-active-spec", 422, "No active spec governs this decision")
NO_POLICY_SNAPSHOT = Kind("no-policy-snapshot", 422, "The domain has no policy snapshot")
HEADERS_TOO_LARGE = Kind("headers-too-large", 431, "The headers are too large")
INTERNAL = Kind("internal", 500, "The service broke while answering")
DATABASE_UNAVAILABLE = Kind("database-unavailable", 503, "The database cannot be reached at the moment")
DATABASE_BUSY = Kind("database-busy", 503, "The database did not answer in time")
SCHEMA_UNKNOWN = Kind("schema-unknown", 503, "The database has no schema that this service knows")

KINDS = tuple(value for value in list(globals().values()) if isinstance(value, Kind))


@dataclass
class Problem(Exception):
    """Raised by a handler; becomes the answer. `fields` are extension members of the document."""

    kind: Kind
    detail: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, request_id: str) -> dict[str, Any]:
        """The document, with the request's id as `instance`."""
        return {
            "type": TYPE_PREFIX + self.kind.name,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": f"urn:uuid:{request_id}",
            **self.fields,
        }

    def response(self, request_id: str) -> Response:
        """The document as an answer."""
        headers = dict(self.headers)
        if self.kind.status == 503:
            headers["Retry-After"] = RETRY_AFTER_SECONDS
        body = json.dumps(self.document(request_id), ensure_ascii=False)
        return Response(body, self.kind.status, headers, media_type=MEDIA_TYPE)
