-- Fix for the pre-migration check `orphan_scope`.
--
-- What is wrong: verdicts point at a scope that is not in mandate.scopes.
-- What this does: inserts the missing scope under its own UUID, in the domain of its verdicts. Its only selectors are
-- that domain and a tenant called `recovered-<uuid>`, so that it matches no decision to come.
-- What it cannot know: the scope's real selectors and its owner; and its domain, when its verdicts belong to several:
-- such a scope stays missing and is listed.
--
--   psql -h localhost -U postgres mandate < fixes/008_orphan_scope.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS mandate_conductor;
CREATE TABLE IF NOT EXISTS mandate_conductor.repairs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    check_id text NOT NULL, table_name text NOT NULL, row_key text NOT NULL, column_name text NOT NULL,
    old_value text, new_value text,
    repaired_at timestamptz NOT NULL DEFAULT now(), repaired_by text NOT NULL DEFAULT current_user
);

CREATE TEMP TABLE repair (table_name text, row_key text, column_name text, old_value text, new_value text)
    ON COMMIT DROP;

CREATE TEMP TABLE missing ON COMMIT DROP AS
SELECT v.scope_id, count(DISTINCT v.domain_id) AS domains, (array_agg(DISTINCT v.domain_id))[1] AS domain_id,
       (array_agg(DISTINCT d.organization_id))[1] AS organization_id
FROM mandate.verdict_events v LEFT JOIN mandate.domains d ON d.domain_id = v.domain_id
WHERE v.scope_id IS NOT NULL AND NOT EXISTS (SELECT FROM mandate.scopes s WHERE s.scope_id = v.scope_id)
GROUP BY v.scope_id;

WITH new_scopes AS (
    INSERT INTO mandate.scopes (scope_id, organization_id, domain_id, scope_domain, tenant, description)
    SELECT m.scope_id, m.organization_id, m.domain_id, d.name, 'recovered-' || m.scope_id, 'Recovered before migration 008: verdicts pointed at this scope and it was missing'
    FROM pg_temp.missing m JOIN mandate.domains d ON d.domain_id = m.domain_id
    WHERE m.domains = 1 AND d.organization_id = m.organization_id
    RETURNING *
)
INSERT INTO pg_temp.repair
SELECT 'scopes', scope_id::text, '(row)', NULL, to_jsonb(n)::text FROM new_scopes n;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'orphan_scope', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'scopes', scope_id FROM pg_temp.missing m
WHERE NOT EXISTS (SELECT FROM mandate.scopes s WHERE s.scope_id = m.scope_id);

COMMIT;
