-- Fix for the pre-migration check `domain_name_null`.
--
-- What is wrong: a domain has no name, and the name is what identifies it in version 8.
-- What this does: gives it the `domain` text that the rows of that domain carry, when they all carry the same and the
-- organization has no other domain of that name; else the placeholder `recovered-` and the first 8 hex digits of its
-- UUID. Old and new values are kept in mandate_conductor.repairs.
-- What it cannot know: what the domain was really called. Rename a placeholder with the mapping in 008.toml.
--
--   psql -h localhost -U postgres mandate < fixes/008_domain_name_null.sql

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

INSERT INTO pg_temp.repair
SELECT 'domains', d.domain_id::text, 'name', NULL,
       COALESCE((SELECT min(x.domain)
                 FROM (SELECT to_jsonb(v) ->> 'domain' AS domain FROM mandate.verdict_events v
                       WHERE v.domain_id = d.domain_id) x
                 WHERE x.domain <> ''
                 HAVING count(DISTINCT x.domain) = 1
                    AND NOT EXISTS (SELECT FROM mandate.domains o
                                    WHERE o.organization_id = d.organization_id AND o.name = min(x.domain))),
                'recovered-' || left(d.domain_id::text, 8))
FROM mandate.domains d WHERE d.name IS NULL;

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
SELECT 'domain_name_null', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'domains', domain_id::text FROM mandate.domains WHERE name IS NULL;

COMMIT;
