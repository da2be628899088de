-- Fix for the pre-migration check `domain_name_collision`.
--
-- What is wrong: two different names of one organization become the same slug, by themselves ("Finance" and "finance")
-- or because a mapping says so.
-- What this does: the name that is a slug already keeps it; every other name of the group gets a proposal of its own
-- (-2, -3, ...) in mandate_conductor.migration_008_domain_names, in place of any mapping it had.
-- What it cannot know: whether the two domains are one and the same: events never move from one domain to another here.
--
--   psql -h localhost -U postgres mandate < fixes/008_domain_name_collision.sql

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

CREATE TEMP TABLE colliding ON COMMIT DROP AS
WITH named AS (
    SELECT d.organization_id, d.name, COALESCE(
               (SELECT m.new_name FROM mandate_conductor.migration_008_domain_names m
                WHERE m.old_name = d.name AND (m.organization_id IS NULL OR m.organization_id = d.organization_id)
                ORDER BY m.organization_id NULLS LAST, m.new_name COLLATE "C" LIMIT 1), d.name) AS new_name
    FROM mandate.domains d
), slugged AS (
    SELECT *, regexp_replace(lower(new_name COLLATE "C"), '[^a-z0-9_-]+', '-', 'g') AS slug FROM named
)
SELECT DISTINCT s.organization_id, s.name FROM slugged s
WHERE EXISTS (SELECT FROM slugged o WHERE o.organization_id = s.organization_id AND o.slug = s.slug AND o.name <> s.name)
  AND s.name <> s.slug;
DELETE FROM mandate_conductor.migration_008_domain_names m USING pg_temp.colliding c
WHERE m.old_name = c.name AND m.organization_id = c.organization_id;

-- Proposals in a fixed order, so that the same names get the same proposals.
DO $$
DECLARE
    item record;
    slug text;
    proposal text;
    n integer;
BEGIN
    FOR item IN
        SELECT organization_id, name FROM pg_temp.colliding
        ORDER BY organization_id, name COLLATE "C"
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
SELECT 'domain_name_collision', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (mapping table | organization | old name | before | new name):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

COMMIT;
