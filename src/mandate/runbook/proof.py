"""Proof that migration 008 kept every row: fingerprints of each table before and after it.

Before, a row of version 7 is taken with its UUIDs. After, the same row of version 8 is taken with its
readable keys turned back into UUIDs through `identity_map`. The two agree only if no row was lost or
altered, every event's domain is the one its UUID had, and the map can be undone. Columns that only one
version has are left out; a table that 008 does not know is compared as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mandate.postgres.connection import Session, Target, connect, sql
from mandate.progress import Reporter
from mandate.rekey.fingerprint import Fingerprint, fingerprint

SCHEMA = "mandate"
_NEW_TABLES = frozenset({"identity_map", "migration_log"})

# Columns that carry identity: compared through the map, not as they are.
_IDENTITY: Mapping[str, frozenset[str]] = {
    "domains": frozenset({"domain_id", "name", "domain"}),
    "scopes": frozenset({"domain_id", "domain", "scope_id"}),
    "policy_snapshots": frozenset({"domain_id", "domain", "policies"}),
    "decision_events": frozenset({"domain_id", "domain"}),
    "verdict_events": frozenset({"domain_id", "domain", "scope_id"}),
    "audit_timeline_entries": frozenset({"domain_id", "domain"}),
    "mandate_specs": frozenset({"domain"}),
}


def before(target: Target, reporter: Reporter) -> dict[str, str]:
    """Fingerprints of a version 7 database by table, as text. Raises DatabaseError."""
    return _take(target, reporter, "fingerprint before", version=7)


def after(target: Target, reporter: Reporter) -> dict[str, str]:
    """Fingerprints of a version 8 database by table, keys turned back. Raises DatabaseError."""
    return _take(target, reporter, "fingerprint after", version=8)


def compare(earlier: Mapping[str, str], later: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per table: {table, rows_before, rows_after, before, after, equal}."""
    rows = []
    for table in sorted(earlier.keys() | later.keys()):
        old, new = earlier.get(table), later.get(table)
        rows.append(
            {
                "table": f"{SCHEMA}.{table}",
                "rows_before": Fingerprint.parse(old).rows if old else None,
                "rows_after": Fingerprint.parse(new).rows if new else None,
                "before": old,
                "after": new,
                "equal": old is not None and old == new,
            }
        )
    return rows


def _take(target: Target, reporter: Reporter, label: str, *, version: int) -> dict[str, str]:
    with connect(target, application_name="mandate-proof") as session:
        columns = _columns(session)
        tables = [table for table in columns if table not in _NEW_TABLES]
        found: dict[str, str] = {}
        with reporter.task(label, total=len(tables), unit="tables") as task:
            for done, table in enumerate(tables):
                task.update(done, note=table)
                found[table] = str(fingerprint(session, _source(session, table, columns[table], version)))
        return found


def _source(session: Session, table: str, columns: Sequence[str], version: int) -> sql.Composable:
    if table not in _IDENTITY:
        return sql.Identifier(SCHEMA, table)
    return _query(session, table, columns, version)


def _columns(session: Session) -> dict[str, list[str]]:
    rows = session.rows(
        'SELECT c.relname AS "table", array_agg(a.attname::text ORDER BY a.attname) AS columns'
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r' GROUP BY 1 ORDER BY 1",
        (SCHEMA,),
    )
    return {row["table"]: row["columns"] for row in rows}


def _query(session: Session, table: str, columns: Sequence[str], version: int) -> sql.Composed:
    plain = [sql.Identifier("t", column) for column in columns if column not in _IDENTITY[table]]
    identity, joins = _old_keys(session, table) if version == 7 else _keys_turned_back(table)
    return sql.SQL("SELECT {} FROM {} t {}").format(
        sql.SQL(", ").join([*plain, *identity]),
        sql.Identifier(SCHEMA, table),
        sql.SQL(" ").join(joins),
    )


Parts = tuple[list[sql.Composable], list[sql.Composable]]


def _old_keys(session: Session, table: str) -> Parts:
    """Version 7: the UUIDs as they are, and names as they will be called."""
    if table == "domains":
        return [sql.SQL("t.domain_id::text"), _new_name(session, "t.name", "t.domain_id")], []
    if table == "mandate_specs":
        return [_new_name(session, "t.domain", None)], []
    keys: list[sql.Composable] = [sql.SQL("t.domain_id::text")]
    if table in ("scopes", "verdict_events"):
        keys.append(sql.SQL("t.scope_id::text"))
    if table == "policy_snapshots":
        keys.append(sql.SQL(_POLICIES_BEFORE))
    return keys, []


def _keys_turned_back(table: str) -> Parts:
    """Version 8: each readable key's old UUID, through the map."""
    domain: list[sql.Composable] = [sql.SQL(_DOMAIN_JOIN)]
    if table == "domains":
        return [sql.SQL("d.old_key"), sql.SQL("t.domain")], domain
    if table == "mandate_specs":
        return [sql.SQL("t.domain")], []
    if table in ("scopes", "verdict_events"):
        return [sql.SQL("d.old_key"), sql.SQL("s.old_key")], [*domain, sql.SQL(_SCOPE_JOIN)]
    if table == "policy_snapshots":
        return [sql.SQL("d.old_key"), sql.SQL(_POLICIES_AFTER)], domain
    return [sql.SQL("d.old_key")], domain


_DOMAIN_JOIN = """
LEFT JOIN mandate.identity_map d
    ON d.kind = 'domain' AND d.new_key = t.domain AND d.organization_id = t.organization_id
"""

_SCOPE_JOIN = "LEFT JOIN mandate.identity_map s ON s.kind = 'scope' AND s.new_key = t.scope_id"

# Policies keep everything but their keys; the scope is compared as its UUID.
_POLICIES_BEFORE = """
(SELECT jsonb_agg(jsonb_build_array(e.value - 'scope_id' - 'domain_id' - 'domain',
        replace(lower(e.value ->> 'scope_id'), '-', ''))
                  ORDER BY e.ordinality)
 FROM jsonb_array_elements(t.policies) WITH ORDINALITY e WHERE jsonb_typeof(e.value) = 'object')
"""

_POLICIES_AFTER = """
(SELECT jsonb_agg(jsonb_build_array(e.value - 'scope_id' - 'domain_id' - 'domain',
        replace((SELECT m.old_key FROM mandate.identity_map m
                 WHERE m.kind = 'scope' AND m.new_key = e.value ->> 'scope_id'), '-', ''))
                  ORDER BY e.ordinality)
 FROM jsonb_array_elements(t.policies) WITH ORDINALITY e WHERE jsonb_typeof(e.value) = 'object')
"""


def _new_name(session: Session, column: str, domain_id: str | None) -> sql.Composable:
    """The name that a domain will have: its own, or the reviewed one of the mapping table."""
    own = sql.SQL(".").join(map(sql.Identifier, column.split(".")))
    if session.value("SELECT to_regclass('mandate_conductor.migration_008_domain_names') IS NULL"):
        return own
    exact = (
        sql.SQL("AND (to_jsonb(n) ->> 'domain_id' IS NULL OR to_jsonb(n) ->> 'domain_id' = {}::text)").format(
            sql.SQL(".").join(map(sql.Identifier, domain_id.split(".")))
        )
        if domain_id
        else sql.SQL("AND to_jsonb(n) ->> 'domain_id' IS NULL")
    )
    return sql.SQL(
        "coalesce((SELECT n.new_name FROM mandate_conductor.migration_008_domain_names n"
        " WHERE n.old_name = {own} AND (n.organization_id IS NULL OR n.organization_id = t.organization_id)"
        " {exact}"
        " ORDER BY to_jsonb(n) ->> 'domain_id' NULLS LAST, n.organization_id NULLS LAST,"
        ' n.new_name COLLATE "C" LIMIT 1), {own})'
    ).format(own=own, exact=exact)
