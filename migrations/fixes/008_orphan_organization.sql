-- Fix for the pre-migration check `orphan_organization`.
--
-- What is wrong: rows point at an organization that is not in mandate.organizations.
-- What this does: inserts the missing organization under its own UUID, called `recovered-` and the first 8 hex digits
-- of the UUID.
-- What it cannot know: what the organization was really called.
--
--   psql -h localhost -U postgres mandate < fixes/008_orphan_organization.sql

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

WITH new_organizations AS (
    INSERT INTO mandate.organizations (organization_id, name, description)
    SELECT organization_id,
           'recovered-' || CASE WHEN count(*) OVER (PARTITION BY left(organization_id::text, 8)) = 1
                                 AND NOT EXISTS (SELECT FROM mandate.organizations o
                                                 WHERE o.name = 'recovered-' || left(r.organization_id::text, 8))
                                THEN left(organization_id::text, 8) ELSE organization_id::text END,
           'Recovered before migration 008: rows pointed at this organization and it was missing'
    FROM (SELECT organization_id FROM mandate.domains
    UNION SELECT organization_id FROM mandate.scopes
    UNION SELECT organization_id FROM mandate.policy_snapshots
    UNION SELECT organization_id FROM mandate.decision_events
    UNION SELECT organization_id FROM mandate.verdict_events
    UNION SELECT organization_id FROM mandate.audit_timeline_entries) r
    WHERE organization_id IS NOT NULL
      AND NOT EXISTS (SELECT FROM mandate.organizations o WHERE o.organization_id = r.organization_id)
    RETURNING *
)
INSERT INTO pg_temp.repair
SELECT 'organizations', organization_id::text, '(row)', NULL, to_jsonb(n)::text FROM new_organizations n;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'orphan_organization', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'organizations', row_key FROM pg_temp.repair WHERE false;

COMMIT;
