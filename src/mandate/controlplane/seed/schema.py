"""What a database is before it is seeded: its version, its rows, its earlier histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from mandate.controlplane.seed.dialect import DECISIONS, TIMELINE, VERDICTS, Version
from mandate.errors import NotMandate
from mandate.postgres.connection import Session, sql

LARGE = (DECISIONS, VERDICTS, TIMELINE)
_COLUMNS = """
    SELECT c.relname AS name, array_agg(a.attname::text) AS columns
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = pg_catalog.to_regnamespace('mandate') AND c.relkind IN ('r', 'p')
    GROUP BY c.relname
"""
_NEEDED = ("organizations", "domains", "scopes", "policy_snapshots", "mandate_specs", *LARGE)


def version(session: Session) -> Version:
    """7 or 8, by shape. Raises NotMandate for anything else."""
    found = {row["name"]: set(row["columns"]) for row in session.rows(_COLUMNS)}
    name = session.value("SELECT current_database()")
    missing = [table for table in _NEEDED if table not in found]
    if len(missing) == len(_NEEDED):
        raise NotMandate(
            f"database {name!r} is not a Mandate database",
            hint="`mandate db init` makes it one",
            database=name,
        )
    if missing:
        raise _unknown(name, f"it has no table mandate.{missing[0]}")
    keyed = [table for table in ("domains", "scopes", *LARGE) if "domain_id" in found[table]]
    if len(keyed) == 5 and {"scope_id", "domain", "owning_team"} <= found[VERDICTS]:
        return 7
    if not keyed and "domain" in found["domains"] and "identity_map" in found:
        return 8
    raise _unknown(name, "its tables are neither version 7's nor version 8's")


def _unknown(name: str, why: str) -> NotMandate:
    return NotMandate(
        f"database {name!r} is of no version that can be seeded: {why}",
        hint="`mandate db init` brings a database to the newest version, `mandate db init --to 007` to 7",
        database=name,
    )


def histories(session: Session) -> list[dict[str, Any]]:
    """The parameters of every history that was seeded here, in order of their first organization."""
    rows = session.rows(
        "SELECT DISTINCT metadata -> 'seeded' AS parameters FROM mandate.organizations"
        " WHERE metadata ? 'seeded' ORDER BY 1"
    )
    return [cast(dict[str, Any], row["parameters"]) for row in rows]


def is_empty(session: Session, tables: Sequence[str] = LARGE) -> bool:
    """Whether none of the tables has a row that this session can see."""
    return not any(
        session.value(sql.SQL("SELECT EXISTS (SELECT FROM mandate.{})").format(sql.Identifier(table)))
        for table in tables
    )


def may_alter(session: Session, tables: Sequence[str] = LARGE) -> bool:
    """Whether this session's role owns the tables."""
    return bool(
        session.value(
            "SELECT bool_and(pg_catalog.pg_has_role(relowner, 'USAGE')) FROM pg_catalog.pg_class"
            " WHERE relnamespace = 'mandate'::regnamespace AND relname = ANY (%s)",
            (list(tables),),
        )
    )


def has_unselective_scope(session: Session) -> bool:
    """Whether a scope without any selector exists: version 7 takes only one."""
    return bool(
        session.value(
            "SELECT EXISTS (SELECT FROM mandate.scopes WHERE COALESCE(scope_domain, '') = ''"
            " AND COALESCE(service, '') = '' AND COALESCE(agent, '') = '' AND COALESCE(scope_system, '') = ''"
            " AND COALESCE(environment, '') = '' AND COALESCE(tenant, '') = '')"
        )
    )
