-- Fix for the pre-migration check `domain_text_contradiction`.
--
-- What is wrong: a row's `domain` text is not the name of the domain that its domain_id points at. The migration drops
-- the text and names the domain by its key, so what the text says would be lost without a word.
-- What this does: sets the text to the name that the UUID has. The old text is kept in mandate_conductor.repairs.
-- What it cannot know: whether instead the domain_id is wrong. Read the rows before you run this.
--
--   psql -h localhost -U postgres mandate < fixes/008_domain_text_contradiction.sql

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
    -- Only tables that have such a column at all.
    FOR item IN SELECT c.relname AS tab, k.attname AS key_column
                FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'domain' AND NOT a.attisdropped
                JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
                JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = i.indkey[0]
                WHERE c.relnamespace = 'mandate'::regnamespace
                  AND c.relname IN ('domains', 'scopes', 'policy_snapshots', 'decision_events', 'verdict_events',
                                    'audit_timeline_entries') LOOP
        -- A text that the reviewed mapping gives to this name is no contradiction; setting it to the name is harmless.
        EXECUTE format('INSERT INTO pg_temp.repair '
                       'SELECT %1$L, r.%2$I::text, ''domain'', r.domain, d.name FROM mandate.%1$I r '
                       'JOIN mandate.domains d ON d.domain_id = r.domain_id '
                       'WHERE r.domain NOT IN ('''', d.name)', item.tab, item.key_column);
    END LOOP;
END
$$;

-- Apply: each table's mutation trigger is off for its own UPDATE only, and then as it was.
DO $$
DECLARE
    item record;
    guard record;
BEGIN
    FOR item IN SELECT DISTINCT r.table_name, r.column_name, k.attname AS key_column,
                       format_type(c.atttypid, c.atttypmod) AS data_type
                FROM pg_temp.repair r
                JOIN pg_index i ON i.indrelid = to_regclass('mandate.' || r.table_name) AND i.indisprimary
                JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = i.indkey[0]
                JOIN pg_attribute c ON c.attrelid = i.indrelid AND c.attname = r.column_name
                ORDER BY 1, 2 LOOP
        SELECT tgname, tgenabled INTO guard FROM pg_trigger
        WHERE tgrelid = to_regclass('mandate.' || item.table_name) AND tgname ~ '^prevent_.*_mutation$'
          AND tgenabled <> 'D';
        IF guard.tgname IS NOT NULL THEN
            EXECUTE format('ALTER TABLE mandate.%I DISABLE TRIGGER %I', item.table_name, guard.tgname);
        END IF;
        EXECUTE format('UPDATE mandate.%1$I t SET %2$I = r.new_value::%3$s FROM pg_temp.repair r '
                       'WHERE r.table_name = %1$L AND r.column_name = %2$L AND r.row_key = t.%4$I::text',
                       item.table_name, item.column_name, item.data_type, item.key_column);
        IF guard.tgname IS NOT NULL THEN
            EXECUTE format('ALTER TABLE mandate.%I ENABLE %s TRIGGER %I', item.table_name,
                           CASE guard.tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END,
                           guard.tgname);
        END IF;
    END LOOP;
END
$$;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'domain_text_contradiction', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT table_name, row_key FROM pg_temp.repair WHERE new_value IS NULL;

COMMIT;
