-- Fix for the pre-migration check `scope_domain_mismatch`.
--
-- What is wrong: a verdict was given under a scope that belongs to another domain than the verdict itself.
-- What this does: where the decision and the scope agree on the domain, the verdict gets that domain (and its name, and
-- organization); otherwise the scope cannot be right and scope_id becomes NULL.
-- What it cannot know: under which scope such a verdict was really given. The old scope_id stays readable in
-- mandate_conductor.repairs.
--
--   psql -h localhost -U postgres mandate < fixes/008_scope_domain_mismatch.sql

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

CREATE TEMP VIEW mismatch AS
SELECT v.verdict_id::text AS row_key, v.domain_id, v.organization_id, v.scope_id, s.domain_id AS scope_domain_id,
       o.organization_id AS scope_organization_id, o.name AS scope_domain_name, to_jsonb(v) ->> 'domain' AS domain,
       COALESCE(d.domain_id = s.domain_id, false) AS decision_agrees
FROM mandate.verdict_events v
JOIN mandate.scopes s USING (scope_id)
JOIN mandate.domains o ON o.domain_id = s.domain_id
LEFT JOIN mandate.decision_events d USING (decision_id)
WHERE s.domain_id <> v.domain_id;

INSERT INTO pg_temp.repair
SELECT 'verdict_events', row_key, 'domain_id', domain_id::text, scope_domain_id::text FROM pg_temp.mismatch
WHERE decision_agrees
UNION ALL
SELECT 'verdict_events', row_key, 'organization_id', organization_id::text, scope_organization_id::text
FROM pg_temp.mismatch WHERE decision_agrees AND organization_id <> scope_organization_id
UNION ALL
SELECT 'verdict_events', row_key, 'domain', domain, scope_domain_name FROM pg_temp.mismatch
WHERE decision_agrees AND domain <> scope_domain_name
UNION ALL
SELECT 'verdict_events', row_key, 'scope_id', scope_id::text, NULL FROM pg_temp.mismatch WHERE NOT decision_agrees;

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
SELECT 'scope_domain_mismatch', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'verdict_events', row_key FROM pg_temp.mismatch;
DROP VIEW pg_temp.mismatch;

COMMIT;
