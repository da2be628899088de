-- Fix for the pre-migration check `policy_domain_unknown`.
--
-- What is wrong: a policy names a domain (by domain_id or by name) that its organization does not have, or the two
-- contradict each other.
-- What this does: the snapshot that holds the policy belongs to a domain; the policy gets that domain's UUID and name
-- in place of what is unknown. Where both are known and contradict, the name is set to the one that the UUID has.
-- What it cannot know: whether the policy was meant for another domain. Policies of a snapshot without a domain stay
-- and are listed. The snapshot's old and new policies are kept in mandate_conductor.repairs.
--
--   psql -h localhost -U postgres mandate < fixes/008_policy_domain_unknown.sql

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

CREATE TEMP VIEW judged AS
SELECT p.snapshot_id, p.policies, e.ordinality AS place, e.value AS policy, own.domain_id AS own_id, own.name AS own_name,
       by_id.domain_id AS key_id, by_id.name AS key_name, by_name.domain_id AS name_id,
       e.value ->> 'domain_id' IS NOT NULL AND by_id.domain_id IS NULL AS key_unknown,
       e.value ->> 'domain' IS NOT NULL AND by_name.domain_id IS NULL AS name_unknown
FROM mandate.policy_snapshots p
CROSS JOIN LATERAL jsonb_array_elements(p.policies) WITH ORDINALITY e
LEFT JOIN mandate.domains own ON own.domain_id = p.domain_id
LEFT JOIN mandate.domains by_id
    ON translate(by_id.domain_id::text, '-', '') = lower(translate(e.value ->> 'domain_id', '{}-', ''))
LEFT JOIN mandate.domains by_name
    ON by_name.organization_id = p.organization_id AND by_name.name = e.value ->> 'domain';

INSERT INTO pg_temp.repair
SELECT 'policy_snapshots', snapshot_id::text, 'policies', policies::text, jsonb_agg(
           policy
           || CASE WHEN key_unknown AND own_id IS NOT NULL THEN jsonb_build_object('domain_id', own_id) ELSE '{}' END
           || CASE WHEN key_id IS NOT NULL AND policy ->> 'domain' IS NOT NULL AND name_id IS DISTINCT FROM key_id
                   THEN jsonb_build_object('domain', key_name)
                   WHEN (name_unknown OR key_unknown AND policy ->> 'domain' IS NOT NULL) AND own_id IS NOT NULL
                   THEN jsonb_build_object('domain', own_name) ELSE '{}' END
           ORDER BY place)::text
FROM pg_temp.judged GROUP BY snapshot_id, policies
HAVING bool_or(key_unknown OR name_unknown OR key_id <> name_id);
DELETE FROM pg_temp.repair WHERE new_value::jsonb = old_value::jsonb;

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
SELECT 'policy_domain_unknown', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'policy_snapshots', snapshot_id, policy ->> 'id' FROM pg_temp.judged
WHERE key_unknown OR name_unknown OR key_id <> name_id;
DROP VIEW pg_temp.judged;

COMMIT;
