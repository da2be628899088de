-- Fix for the pre-migration check `leftovers`.
--
-- What is wrong: objects of version 8 stand in a version 7 database: somebody tried before, without a transaction.
-- What this does: moves tables (identity_map, migration_log) out of the way, with their rows, into mandate_conductor as
-- leftover_008_<name>; drops the trigger, the function and the indexes, which hold no data.
-- Schemas mandate_new_008, mandate_pre_008 and mandate_rekey_008 hold what the conductor's engine built in a run that is
-- over or unknown: nothing in them is needed, and they are dropped (`mandate abort 008` does the same). Those of a run that
-- can go on stay: `mandate run 008` goes on with it, `mandate abort 008` drops them.
-- What it cannot know: how to undo a column that was already changed (domain_id or scope_id that is no longer uuid, or
-- gone). Such columns are listed: restore the backup that was made before that attempt.
--
--   psql -h localhost -U postgres mandate < fixes/008_leftovers.sql

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
    target text;
    engine boolean;
BEGIN
    IF to_regclass('mandate.domains') IS NULL OR NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass('mandate.domains') AND attname = 'domain_id'
                                   AND NOT attisdropped) THEN
        RAISE EXCEPTION 'this is not a version 7 database: nothing here is a leftover';
    END IF;
    FOR item IN SELECT c.relname FROM pg_class c
                WHERE c.relnamespace = 'mandate'::regnamespace AND c.relname IN ('identity_map', 'migration_log')
                  AND c.relkind IN ('r', 'p') LOOP
        target := 'leftover_008_' || item.relname;
        WHILE to_regclass('mandate_conductor.' || target) IS NOT NULL LOOP
            target := target || '_';
        END LOOP;
        EXECUTE format('ALTER TABLE mandate.%I SET SCHEMA mandate_conductor', item.relname);
        EXECUTE format('ALTER TABLE mandate_conductor.%I RENAME TO %I', item.relname, target);
        INSERT INTO pg_temp.repair VALUES ('mandate.' || item.relname, '(table)', '(moved)', 'mandate',
                                           'mandate_conductor.' || target);
    END LOOP;
    FOR item IN SELECT c.oid::regclass::text AS name FROM pg_class c
                WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind = 'i'
                  AND (c.relname IN ('idx_verdict_events_scope_id_text', 'idx_scopes_selectors')
                       OR c.relname ~ '^idx_(scopes|policy_snapshots|decision_events|verdict_events|audit_timeline)_organization_domain$') LOOP
        INSERT INTO pg_temp.repair VALUES (item.name, '(index)', '(dropped)', pg_get_indexdef(item.name::regclass), NULL);
        EXECUTE format('DROP INDEX %s', item.name);
    END LOOP;
    FOR item IN SELECT t.tgname, t.tgrelid::regclass AS tab, pg_get_triggerdef(t.oid) AS definition FROM pg_trigger t
                JOIN pg_class c ON c.oid = t.tgrelid AND c.relnamespace = 'mandate'::regnamespace
                WHERE t.tgname = 'validate_scopes_scope_id_domain_prefix' LOOP
        INSERT INTO pg_temp.repair VALUES (item.tab::text, item.tgname, '(dropped)', item.definition, NULL);
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.tab);
    END LOOP;
    FOR item IN SELECT oid::regprocedure::text AS name, pg_get_functiondef(oid) AS definition FROM pg_proc
                WHERE pronamespace = 'mandate'::regnamespace AND proname = 'validate_scope_id_domain_prefix' LOOP
        INSERT INTO pg_temp.repair VALUES (item.name, '(function)', '(dropped)', item.definition, NULL);
        EXECUTE format('DROP FUNCTION %s', item.name);
    END LOOP;
    IF to_regclass('mandate_conductor.rekeys') IS NOT NULL THEN
        EXECUTE 'SELECT status IN (''running'', ''rolled back'') FROM mandate_conductor.rekeys WHERE name = ''008'' '
                'ORDER BY id DESC LIMIT 1' INTO engine;
    END IF;
    FOR item IN SELECT nspname AS name FROM pg_namespace
                WHERE nspname IN ('mandate_new_008', 'mandate_pre_008', 'mandate_rekey_008') AND engine IS NOT TRUE LOOP
        INSERT INTO pg_temp.repair VALUES (item.name, '(schema)', '(dropped)', item.name, NULL);
        EXECUTE format('DROP SCHEMA %I CASCADE', item.name);
    END LOOP;
END
$$;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'leftovers', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (column | type):'
SELECT format('%s.%s', a.attrelid::regclass, a.attname), format_type(a.atttypid, NULL)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relnamespace = 'mandate'::regnamespace AND c.relkind = 'r'
WHERE (a.attname = 'domain_id' OR a.attname = 'scope_id' AND c.relname IN ('scopes', 'verdict_events'))
  AND a.atttypid <> 'uuid'::regtype AND NOT a.attisdropped;

COMMIT;
