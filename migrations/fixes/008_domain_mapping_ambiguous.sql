-- Fix for the pre-migration check `domain_mapping_ambiguous`.
--
-- What is wrong: mandate_conductor.migration_008_domain_names gives one old name several new ones.
-- What this does: keeps the alphabetically first, which is the one that the migration would take, and removes the
-- others. They are kept in mandate_conductor.repairs.
-- What it cannot know: which of them you meant.
--
--   psql -h localhost -U postgres mandate < fixes/008_domain_mapping_ambiguous.sql

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

CREATE TABLE IF NOT EXISTS mandate_conductor.migration_008_domain_names (
    organization_id uuid, old_name text NOT NULL, new_name text NOT NULL
);

CREATE TEMP TABLE repair (table_name text, row_key text, column_name text, old_value text, new_value text)
    ON COMMIT DROP;

WITH ranked AS (
    SELECT m.ctid AS id, rank() OVER (PARTITION BY organization_id, to_jsonb(m) ->> 'domain_id', old_name
                                      ORDER BY new_name COLLATE "C") AS place
    FROM mandate_conductor.migration_008_domain_names m
), removed AS (
    DELETE FROM mandate_conductor.migration_008_domain_names m USING ranked r WHERE r.id = m.ctid AND r.place > 1
    RETURNING m.*
)
INSERT INTO pg_temp.repair
SELECT 'migration_008_domain_names', COALESCE(organization_id::text, 'any'), old_name, new_name, NULL FROM removed;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'domain_mapping_ambiguous', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

COMMIT;
