"""What the database lets each role do, and row level security as the second wall."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mandate.controlplane.access.noticing import NOTICE_SECONDS
from mandate.controlplane.access.statements import read_sql
from mandate.controlplane.dialect import SCHEMA_VERSION, VERSIONS
from mandate.errors import CheckFailed, NotMandate
from mandate.postgres.connection import Session
from mandate.rekey import journal

ROLES = ("mandate_runtime", "mandate_auditor", "mandate_migrator")
PATIENCE_SECONDS = 3 * NOTICE_SECONDS


class NotReady(CheckFailed):
    """Row level security cannot be switched on yet."""

    code = "row-security-not-ready"


@dataclass(frozen=True)
class Granted:
    """What `grant` found. `migrator`: whether mandate_migrator may change tables, which its members need."""

    version: int
    owner: str
    migrator: bool
    row_security: bool


def grant(session: Session, *, row_security: bool | None = None) -> Granted:
    """Make the roles and give them their rights; row level security on, off, or (None) as it is.

    Raises NotReady, NotMandate, DatabaseError. Everything but the switch is one transaction.
    """
    version = _version(session)
    if row_security:
        _check_ready(session, version)
    with session.transaction():
        session.execute("SELECT pg_catalog.pg_advisory_xact_lock(1296126532, 7)")
        session.execute(read_sql("grant.sql"))
        session.execute(read_sql("grant_access.sql"))
        if row_security:
            session.execute(read_sql("row_security_policies.sql"))
        elif row_security is not None:
            session.execute(read_sql("row_security_off.sql"))
    if row_security:
        _let_services_notice(session)
        session.execute(read_sql("row_security_on.sql"))
    return _granted(session, version)


def excess(session: Session) -> str | None:
    """Which rights whoever is connected has that a service should not have, in a few words; None: none."""
    row = session.row(read_sql("rights.sql"))
    assert row is not None
    if row["superuser"]:
        return "a superuser"
    if row["owner"]:
        return "the owner of the tables"
    return "a role that bypasses row level security" if row["bypasses"] else None


def _version(session: Session) -> int:
    version = session.value(SCHEMA_VERSION)
    if version not in VERSIONS:
        raise NotMandate(
            "the database has no schema of Mandate that rights can be given on (version 7, 8 or 9)",
            hint="`mandate db init` makes one",
        )
    return int(version)


def _check_ready(session: Session, version: int) -> None:
    if version < 8:
        raise NotReady(
            "row level security needs version 8 or 9: migration 008 changes the columns that it looks at",
            hint="run `mandate run 008` first, and this again afterwards",
        )
    if journal.exists(session) and session.value(
        "SELECT EXISTS (SELECT FROM mandate_conductor.rekeys"
        " WHERE ended_at IS NULL AND status <> 'rolled back')"
    ):
        raise NotReady(
            "a key change is not finished: it would have to carry the policies along",
            hint="`mandate finalize` or `mandate rekey finalize` ends it; then run this again",
        )


def _let_services_notice(session: Session) -> None:
    """Services say whose rows they are about once the policies are there; they look every second."""
    if session.value(read_sql("row_security_unnoticed.sql")):
        time.sleep(PATIENCE_SECONDS)


def _granted(session: Session, version: int) -> Granted:
    row = session.row(
        "SELECT pg_catalog.pg_get_userbyid(n.nspowner) AS owner,"
        " pg_catalog.pg_has_role('mandate_migrator', n.nspowner, 'MEMBER') AS migrator,"
        " COALESCE((SELECT relrowsecurity FROM pg_catalog.pg_class"
        "  WHERE oid = to_regclass('mandate.decision_events')), false) AS row_security"
        " FROM pg_catalog.pg_namespace n WHERE n.nspname = 'mandate'"
    )
    assert row is not None
    return Granted(version, **row)
