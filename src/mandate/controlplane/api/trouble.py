"""Which problem document an exception becomes."""

from __future__ import annotations

from mandate.controlplane.api.problems import (
    DATABASE_BUSY,
    DATABASE_UNAVAILABLE,
    DECISION_CONFLICT,
    INTERNAL,
    INVALID_DECISION,
    INVALID_OUTCOME,
    MALFORMED_BODY,
    MALFORMED_PARAMETER,
    NO_ACTIVE_SPEC,
    NO_POLICY_SNAPSHOT,
    OUTSIDE_TOKEN,
    SCHEMA_UNKNOWN,
    UNKNOWN_DOMAIN,
    Kind,
    Problem,
)
from mandate.controlplane.intake import InvalidDecision, MalformedBody
from mandate.controlplane.outcomes import InvalidOutcome
from mandate.controlplane.recorder import (
    CatalogueMoving,
    DecisionConflict,
    NoActiveSpec,
    NoPolicySnapshot,
    OutsideToken,
    UnknownDomain,
)
from mandate.controlplane.store import SchemaChanging
from mandate.errors import (
    AuthenticationFailed,
    DatabaseError,
    DatabaseUnavailable,
    DiskFull,
    LockNotAvailable,
    MandateError,
    NotMandate,
)

# What a caller can mend; the message is for him.
REFUSALS: dict[type[MandateError], Kind] = {
    MalformedBody: MALFORMED_BODY,
    InvalidDecision: INVALID_DECISION,
    OutsideToken: OUTSIDE_TOKEN,
    UnknownDomain: UNKNOWN_DOMAIN,
    NoActiveSpec: NO_ACTIVE_SPEC,
    NoPolicySnapshot: NO_POLICY_SNAPSHOT,
    DecisionConflict: DECISION_CONFLICT,
    InvalidOutcome: INVALID_OUTCOME,
}


def problem_of(error: Exception) -> Problem:
    """The answer to an exception; what nobody expected is INTERNAL and says nothing."""
    if isinstance(error, Problem):
        return error
    refusal = REFUSALS.get(type(error)) if isinstance(error, MandateError) else None
    if refusal is not None and isinstance(error, MandateError):
        return Problem(refusal, error.message, error.fields)
    kind = database_kind(error)
    if kind is MALFORMED_PARAMETER:
        return Problem(kind, "a value is outside of what the database can compare")
    detail = "the log has the reason, under this instance" if kind is INTERNAL else "try again shortly"
    return Problem(kind, detail)


def database_kind(error: Exception) -> Kind:
    """The kind of problem that a DatabaseError or NotMandate is."""
    sqlstate = error.sqlstate if isinstance(error, DatabaseError) else None
    if isinstance(error, NotMandate | SchemaChanging):
        return SCHEMA_UNKNOWN
    if isinstance(error, LockNotAvailable | CatalogueMoving) or sqlstate == "57014":
        return DATABASE_BUSY
    if isinstance(error, DatabaseUnavailable | AuthenticationFailed | DiskFull):
        return DATABASE_UNAVAILABLE
    if sqlstate is not None and sqlstate.startswith("22"):
        return MALFORMED_PARAMETER
    return INTERNAL
