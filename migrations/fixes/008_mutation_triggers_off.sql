-- Fix for the pre-migration check `mutation_triggers_off`.
--
-- What is wrong: a trigger that keeps a table append-only is switched off. The migration would leave it so, and the
-- verification would fail.
-- What this does: switches it on again, for every table of the schema.
-- What it cannot know: what was changed while it was off.
--
--   psql -h localhost -U postgres mandate < fixes/008_mutation_triggers_off.sql

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

DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                WHERE c.relnamespace = 'mandate'::regnamespace AND t.tgenabled = 'D'
                  AND t.tgname ~ '^prevent_.*_(mutation|truncate)$' LOOP
        EXECUTE format('ALTER TABLE mandate.%I ENABLE TRIGGER %I', item.relname, item.tgname);
        INSERT INTO pg_temp.repair VALUES (item.relname, item.tgname, '(trigger)', 'disabled', 'enabled');
    END LOOP;
END
$$;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'mutation_triggers_off', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

COMMIT;
