-- Fix for the pre-migration check `domain_name_not_slug`.
--
-- What is wrong: a domain's name has other characters than a-z, 0-9, _ and -, and the name becomes its key.
-- What this does: proposes a slug for each such name in mandate_conductor.migration_008_domain_names, which the checks
-- and the migration read. mandate.domains itself is not touched. A slug that is taken gets -2, -3, ...
-- What it cannot know: whether you like the proposal. Change the table, or [domains] in 008.toml, before you migrate.
--
--   psql -h localhost -U postgres mandate < fixes/008_domain_name_not_slug.sql

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

-- Proposals in a fixed order, so that the same names get the same proposals.
DO $$
DECLARE
    item record;
    slug text;
    proposal text;
    n integer;
BEGIN
    -- A mapping to something that is no slug either gives way.
    DELETE FROM mandate_conductor.migration_008_domain_names WHERE new_name !~ '^[a-z0-9_-]+$';
    FOR item IN
        SELECT d.organization_id, d.name FROM mandate.domains d
        WHERE d.name !~ '^[a-z0-9_-]+$'
          AND NOT EXISTS (SELECT FROM mandate_conductor.migration_008_domain_names m
                          WHERE m.old_name = d.name AND m.new_name ~ '^[a-z0-9_-]+$'
                            AND (m.organization_id IS NULL OR m.organization_id = d.organization_id))
        GROUP BY d.organization_id, d.name
        ORDER BY d.organization_id, d.name COLLATE "C"
    LOOP
        slug := trim(BOTH '-' FROM regexp_replace(lower(item.name COLLATE "C"), '[^a-z0-9_-]+', '-', 'g'));
        IF slug = '' THEN slug := 'domain'; END IF;
        proposal := slug;
        n := 1;
        WHILE EXISTS (SELECT FROM mandate.domains d
                      WHERE d.organization_id = item.organization_id AND d.name = proposal)
           OR EXISTS (SELECT FROM mandate_conductor.migration_008_domain_names m
                      WHERE (m.organization_id = item.organization_id OR m.organization_id IS NULL)
                        AND m.new_name = proposal) LOOP
            n := n + 1;
            proposal := slug || '-' || n;
        END LOOP;
        INSERT INTO mandate_conductor.migration_008_domain_names (organization_id, old_name, new_name)
        VALUES (item.organization_id, item.name, proposal);
        INSERT INTO pg_temp.repair
        VALUES ('migration_008_domain_names', item.organization_id::text, item.name, NULL, proposal);
    END LOOP;
END
$$;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'domain_name_not_slug', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (mapping table | organization | old name | before | new name):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

COMMIT;
