"""Tokens in the database: made, listed, revoked. Rows are only ever appended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mandate.controlplane.access import tokens
from mandate.controlplane.access.principal import HeldDomain, Role
from mandate.controlplane.access.statements import read_sql
from mandate.controlplane.dialect import SCHEMA_VERSION, VERSIONS, spelled
from mandate.controlplane.store import UUID_PATTERN
from mandate.errors import DatabaseError, NotMandate, UsageError
from mandate.postgres.connection import Row, Session

SCHEMA = "mandate_access"
MOST_DOMAINS = 1000


_DOMAIN = {version: spelled(version, read_sql, "domain.sql") for version in VERSIONS}


@dataclass(frozen=True)
class Created:
    """A new token. `token` is its text, which nobody can read again."""

    token_id: str
    token: str
    role: Role
    organization_id: str
    organization: str
    domains: tuple[str, ...] | None
    description: str
    created_at: Any
    expires_at: Any


def create(
    session: Session,
    role: Role,
    organization: str,
    domains: Sequence[str] | None = None,
    *,
    lifetime: timedelta | None = None,
    description: str = "",
) -> Created:
    """Make a token for an organization (UUID or name), with `domains` (names or UUIDs) or all of them.

    Makes the schema when it is the first. Raises UsageError for what does not exist, NotMandate and
    DatabaseError.
    """
    version = session.value(SCHEMA_VERSION)
    if version not in _DOMAIN:
        raise NotMandate(
            "the database has no schema of Mandate that tokens can be made for (version 7, 8 or 9)",
            hint="`mandate db init` makes one",
        )
    organization_id, named = _organization(session, organization)
    held = None if not domains else [_domain(session, version, organization_id, name) for name in domains]
    issued = tokens.issue()
    with session.transaction():
        _ensure_schema(session)
        row = session.row(
            read_sql("create.sql"),
            {
                "token_id": issued.token_id,
                "digest": issued.digest,
                "role": role.value,
                "organization_id": organization_id,
                "domains": [each.name for each in held] if held else None,
                "domain_ids": [each.uuid for each in held] if held else None,
                "description": description,
                "lifetime": lifetime,
            },
        )
    assert row is not None
    names = tuple(each.name for each in held) if held else None
    return Created(issued.token_id, issued.text, role, organization_id, named, names, description, **row)


def listed(session: Session) -> list[Row]:
    """Every token that was ever made, newest first, with its status: valid, expired or revoked."""
    return session.rows(read_sql("list.sql")) if session.value(read_sql("exists.sql")) else []


def revoke(session: Session, token_id: str, reason: str = "") -> bool:
    """End a token; False when it was revoked before. Raises UsageError when there is none with this id."""
    params = {"token_id": token_id, "reason": reason}
    if session.value(read_sql("exists.sql")):
        if session.row(read_sql("revoke.sql"), params) is not None:
            return True
        if session.row(read_sql("verify.sql"), params) is not None:
            return False
    raise UsageError(f"there is no token {token_id}", hint="`mandate token list` shows them")


def exist(session: Session) -> bool:
    """Whether a token was ever made in this database."""
    return bool(session.value(read_sql("exists.sql")) and session.value(read_sql("any.sql")))


def _ensure_schema(session: Session) -> None:
    """Make the tables when they are not there: two at the same time take turns."""
    if not session.value(read_sql("exists.sql")):
        session.execute("SELECT pg_catalog.pg_advisory_xact_lock(1296126532, 7)")
        session.execute(read_sql("schema.sql"))
        session.execute(read_sql("grant_access.sql"))


def _organization(session: Session, given: str) -> tuple[str, str]:
    """Its id and its name."""
    try:
        rows = session.rows(
            "SELECT organization_id::text AS organization_id, name FROM mandate.organizations"
            " WHERE name = %(name)s OR organization_id = %(uuid)s::uuid",
            {"name": given, "uuid": given if UUID_PATTERN.fullmatch(given) else None},
        )
    except DatabaseError as error:
        raise _hostile(error, given) from None
    if len(rows) != 1:
        raise UsageError(f"there is no organization {given!r}", hint="give its UUID or its name")
    return str(rows[0]["organization_id"]), str(rows[0]["name"])


def _domain(session: Session, version: int, organization_id: str, given: str) -> HeldDomain:
    uuid = given.lower() if UUID_PATTERN.fullmatch(given) else None
    params = {"organization_id": organization_id, "value": given, "uuid": uuid}
    row = session.row(_DOMAIN[version], params)
    if row is None:
        raise UsageError(
            f"organization {organization_id} has no domain {given!r}",
            hint="give the names of domains that are there; without --domain the token has all of them",
        )
    return HeldDomain(**row)


def _hostile(error: DatabaseError, given: str) -> Exception:
    return UsageError(f"there is no organization {given!r}") if error.sqlstate == "22021" else error
