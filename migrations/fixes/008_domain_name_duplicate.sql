-- Fix for the pre-migration check `domain_name_duplicate`.
--
-- What is wrong: two domains of one organization have the same name (its unique constraint is absent), and the name is
-- what will identify them.
-- What this does: the oldest keeps the name; each of the others gets a proposal, the name and the first 8 hex digits of
-- its UUID, in mandate_conductor.migration_008_domain_names. A mapping by domain_id can tell them apart; specs and
-- policies that name the domain by its name mean the one that keeps it.
-- What it cannot know: whether the domains are one and the same: events never move from one domain to another here.
--
--   psql -h localhost -U postgres mandate < fixes/008_domain_name_duplicate.sql

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
ALTER TABLE mandate_conductor.migration_008_domain_names ADD COLUMN IF NOT EXISTS domain_id uuid;

CREATE TEMP TABLE repair (table_name text, row_key text, column_name text, old_value text, new_value text)
    ON COMMIT DROP;

INSERT INTO pg_temp.repair
SELECT 'migration_008_domain_names', domain_id::text, name, NULL,
       trim(BOTH '-' FROM regexp_replace(lower(name COLLATE "C"), '[^a-z0-9_-]+', '-', 'g')) || '-' || left(domain_id::text, 8)
FROM (SELECT *, row_number() OVER (PARTITION BY organization_id, name ORDER BY created_at, domain_id) AS place
      FROM mandate.domains) d
WHERE place > 1
  AND NOT EXISTS (SELECT FROM mandate_conductor.migration_008_domain_names m WHERE m.domain_id = d.domain_id);

INSERT INTO mandate_conductor.migration_008_domain_names (organization_id, old_name, new_name, domain_id)
SELECT d.organization_id, d.name, r.new_value, d.domain_id
FROM pg_temp.repair r JOIN mandate.domains d ON d.domain_id::text = r.row_key;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'domain_name_duplicate', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (mapping table | domain | old name | before | new name):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

COMMIT;
