"""What a row of 008 amounts to on both sides: with its UUIDs, and with readable keys turned back into them.

Before, a row of version 7 is taken with its UUIDs. After, the same row of version 8 is taken with its
readable keys turned back into UUIDs through `identity_map`. The two agree only if no row was lost or
altered, every event's domain is the one its UUID had, and the map can be undone. Columns that only one
version has are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mandate.postgres.connection import Session, sql
from mandate.runbook.proof import SCHEMA, Proof

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


def _rows(session: Session, table: str, columns: Sequence[str], migrated: bool) -> sql.Composable | None:
    if table not in _IDENTITY:
        return None
    plain = [sql.Identifier("t", column) for column in columns if column not in _IDENTITY[table]]
    identity, joins = _keys_turned_back(table) if migrated else _old_keys(session, table)
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


PROOF = Proof(new=frozenset({"identity_map", "migration_log"}), rows=_rows)
