\set ECHO none
\set QUIET on
\set ON_ERROR_STOP on
\set ON_ERROR_ROLLBACK off
\set AUTOCOMMIT on
\set ECHO_HIDDEN off
\set SINGLESTEP off
\set SINGLELINE off
\set FETCH_COUNT 0
\set VERBOSITY default
\set SHOW_CONTEXT never
\timing off
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset expanded off
\pset footer off
\pset border 0
\pset null ''
\pset title
\pset fieldsep ': '
\pset recordsep '\n'

-- Verification after migration 009. Changes nothing: everything it creates is in pg_temp and ends with the session.
--
--   psql -h localhost -U postgres mandate < 009_POST_MIGRATION_VERIFICATION.sql
--
-- Annotated like the pre-migration checks; every figure is computed from the catalogue or the data of this moment. On a
-- version 8 database it runs too, and fails.

BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
SET LOCAL row_security = off;
SET LOCAL work_mem = '64MB';
-- A limit set by the caller (PGOPTIONS='-c lock_timeout=60s') stays.
DO $$
BEGIN
    IF current_setting('lock_timeout') = '0' THEN
        PERFORM set_config('lock_timeout', '15s', true);
    END IF;
END
$$;

DO $$
BEGIN
    IF current_setting('server_version_num')::int < 140000 THEN
        RAISE EXCEPTION 'PostgreSQL 14 or newer is needed; this server is %', current_setting('server_version');
    ELSIF to_regclass('mandate.domains') IS NULL OR to_regclass('mandate.scopes') IS NULL
        OR to_regclass('mandate.policy_snapshots') IS NULL OR to_regclass('mandate.decision_events') IS NULL
        OR to_regclass('mandate.verdict_events') IS NULL OR to_regclass('mandate.audit_timeline_entries') IS NULL
        OR to_regclass('mandate.identity_map') IS NULL OR to_regclass('mandate.migration_log') IS NULL THEN
        RAISE EXCEPTION 'database "%" is not a Mandate database of version 8 or newer', current_database()
            USING HINT = 'Connect to the right database, or apply migration 008 first.';
    END IF;
END
$$;

-- An earlier run in the same session left its views.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT relname, relkind FROM pg_class
                WHERE relnamespace = pg_my_temp_schema() AND relkind IN ('v', 'r')
                  AND relname ~ '^(bad_|v9_|check_results$)' LOOP
        EXECUTE format('DROP %s IF EXISTS pg_temp.%I CASCADE',
                       CASE item.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, item.relname);
    END LOOP;
END
$$;

CREATE TEMP TABLE check_results (
    n integer GENERATED ALWAYS AS IDENTITY, check_id text, expect text, check_name text, result text
);

CREATE TEMP TABLE v9_tables (n integer, table_name text, key text[]);
INSERT INTO pg_temp.v9_tables VALUES
    (1, 'domains', '{organization_id,domain}'), (2, 'scopes', '{organization_id,scope_id}'),
    (3, 'policy_snapshots', '{organization_id,snapshot_id}'), (4, 'decision_events', '{organization_id,decision_id}'),
    (5, 'verdict_events', '{organization_id,verdict_id}'), (6, 'audit_timeline_entries', '{organization_id,entry_id}'),
    (7, 'mandate_specs', '{organization_id,spec_id,version}'),
    (8, 'spec_events', '{organization_id,domain,intent,stage,position}'),
    (9, 'identity_map', '{organization_id,kind,old_key}');

-- What is wrong, check by check --------------------------------------------------------------------------------------

CREATE TEMP VIEW bad_primary_keys AS
SELECT t.table_name AS object, array_to_string(t.key, ', ') AS wanted,
       COALESCE(array_to_string(k.columns, ', '), 'none') AS found
FROM pg_temp.v9_tables t
LEFT JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY n.place) AS columns
    FROM pg_constraint c CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY n (number, place)
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = n.number
    WHERE c.contype = 'p' AND c.conrelid = to_regclass('mandate.' || t.table_name)
) k ON true
WHERE k.columns IS DISTINCT FROM t.key;

-- A key that stays unique without organization_id cannot be kept apart by tenant. Those that are there until 009 is
-- finalized keep the way back open.
CREATE TEMP VIEW bad_unique_keys AS
SELECT i.indexrelid::regclass::text AS object, pg_get_indexdef(i.indexrelid) AS definition
FROM pg_temp.v9_tables t JOIN pg_index i ON i.indrelid = to_regclass('mandate.' || t.table_name) AND i.indisunique
JOIN pg_class x ON x.oid = i.indexrelid
WHERE i.indkey[0] IS DISTINCT FROM (SELECT attnum FROM pg_attribute
                                    WHERE attrelid = i.indrelid AND attname = 'organization_id')
  AND NOT (x.relname = t.table_name || '_version_8_key' AND to_regnamespace('mandate_pre_009') IS NOT NULL);

CREATE TEMP VIEW bad_foreign_keys AS
SELECT w.name AS object, w.definition AS wanted, COALESCE(f.definition, 'is missing') AS found
FROM (VALUES
    ('verdict_events_organization_domain_decision_fkey', 'FOREIGN KEY (organization_id, domain, decision_id) REFERENCES '
     'mandate.decision_events(organization_id, domain, decision_id)'),
    ('verdict_events_organization_domain_snapshot_fkey', 'FOREIGN KEY (organization_id, domain, snapshot_id) REFERENCES '
     'mandate.policy_snapshots(organization_id, domain, snapshot_id)'),
    ('verdict_events_organization_domain_scope_fkey', 'FOREIGN KEY (organization_id, domain, scope_id) REFERENCES '
     'mandate.scopes(organization_id, domain, scope_id)'),
    ('audit_timeline_entries_organization_domain_decision_fkey', 'FOREIGN KEY (organization_id, domain, decision_id) '
     'REFERENCES mandate.decision_events(organization_id, domain, decision_id)'),
    ('spec_events_spec_fkey', 'FOREIGN KEY (organization_id, domain, intent, stage, spec_id, version) REFERENCES '
     'mandate.mandate_specs(organization_id, domain, intent, stage, spec_id, version)')) w (name, definition)
LEFT JOIN LATERAL (
    SELECT pg_get_constraintdef(c.oid) || CASE WHEN c.convalidated THEN '' ELSE ' NOT VALID' END AS definition
    FROM pg_constraint c WHERE c.contype = 'f' AND c.conname = w.name AND c.connamespace = 'mandate'::regnamespace
) f ON true
WHERE f.definition IS DISTINCT FROM w.definition;

CREATE TEMP VIEW bad_received_at AS
SELECT 'decision_events.received_at' AS object, 'is missing or may be NULL' AS problem
WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'mandate.decision_events'::regclass
                  AND attname = 'received_at' AND attnotnull AND NOT attisdropped);

CREATE TEMP VIEW bad_triggers AS
SELECT w.name AS object, 'is missing or off' AS problem
FROM (VALUES ('verdict_events', 'fill_verdict_events_owning_team'), ('mandate_specs', 'activate_mandate_specs'),
             ('spec_events', 'validate_spec_events'), ('spec_events', 'prevent_spec_events_mutation'),
             ('spec_events', 'prevent_spec_events_truncate')) w (tab, name)
WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass('mandate.' || w.tab) AND t.tgname = w.name
                  AND t.tgenabled IN ('O', 'A'))
UNION ALL
SELECT t.table_name, 'does not refuse UPDATE, DELETE and TRUNCATE'
FROM pg_temp.v9_tables t
WHERE (SELECT count(*) FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
       WHERE g.tgrelid = to_regclass('mandate.' || t.table_name) AND g.tgenabled IN ('O', 'A')
         AND p.proname LIKE 'prevent%') < 2;

-- An active spec that no event has ever activated.
CREATE TEMP TABLE v9_never_activated (spec_id text, version integer, organization_id uuid, domain text);
DO $$
BEGIN
    IF to_regclass('mandate.spec_events') IS NULL THEN
        INSERT INTO pg_temp.v9_never_activated
        SELECT spec_id, version, organization_id, domain FROM mandate.mandate_specs WHERE status = 'active';
    ELSE
        INSERT INTO pg_temp.v9_never_activated
        SELECT s.spec_id, s.version, s.organization_id, s.domain FROM mandate.mandate_specs s
        WHERE s.status = 'active' AND NOT EXISTS (
            SELECT FROM mandate.spec_events e
            WHERE (e.organization_id, e.domain, e.intent, e.stage, e.spec_id, e.version)
                = (s.organization_id, s.domain, s.intent, s.stage, s.spec_id, s.version) AND e.event = 'activated');
    END IF;
END
$$;
CREATE TEMP VIEW bad_never_activated AS SELECT * FROM pg_temp.v9_never_activated;

CREATE TEMP VIEW bad_across AS
SELECT 'verdict_events' AS table_name, v.verdict_id::text AS row_key
FROM mandate.verdict_events v
LEFT JOIN mandate.decision_events d USING (organization_id, domain, decision_id)
LEFT JOIN mandate.policy_snapshots p USING (organization_id, domain, snapshot_id)
LEFT JOIN mandate.scopes s USING (organization_id, domain, scope_id)
WHERE d.decision_id IS NULL OR p.snapshot_id IS NULL OR v.scope_id IS NOT NULL AND s.scope_id IS NULL
UNION ALL
SELECT 'audit_timeline_entries', t.entry_id::text
FROM mandate.audit_timeline_entries t
LEFT JOIN mandate.decision_events d USING (organization_id, domain, decision_id)
WHERE d.decision_id IS NULL;

-- The checks ---------------------------------------------------------------------------------------------------------

\echo '=== 1. KEYS ==='

-- check: primary_keys expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'primary_keys', 'zero', 'primary keys that do not begin with organization_id', count(*)
FROM pg_temp.bad_primary_keys
RETURNING check_name, result::bigint;

-- check: unique_keys expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'unique_keys', 'zero', 'unique keys that do not begin with organization_id', count(*) FROM pg_temp.bad_unique_keys
RETURNING check_name, result::bigint;

-- check: foreign_keys expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'foreign_keys', 'zero', 'foreign keys that are missing, not valid or others', count(*) FROM pg_temp.bad_foreign_keys
RETURNING check_name, result::bigint;

\echo '=== 2. DATA ==='

-- check: across expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'across', 'zero', 'rows that point across organizations or domains', count(*) FROM pg_temp.bad_across
RETURNING check_name, result::bigint;

-- check: never_activated expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'never_activated', 'zero', 'active specs that no event activated', count(*) FROM pg_temp.bad_never_activated
RETURNING check_name, result::bigint;

\echo '=== 3. WHAT VERSION 9 ADDS ==='

-- check: received_at expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'received_at', 'zero', 'decisions without a time of receipt', count(*) FROM pg_temp.bad_received_at
RETURNING check_name, result::bigint;

-- check: triggers expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'triggers', 'zero', 'triggers that are missing or off', count(*) FROM pg_temp.bad_triggers
RETURNING check_name, result::bigint;

-- check: migration_log expect=nonzero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'migration_log', 'nonzero', 'migration 009 in migration_log', count(*)
FROM mandate.migration_log WHERE migration_version = 9
RETURNING check_name, result::bigint;

\echo ''

-- check: verification expect=any
SELECT 'verification' AS check_name,
       CASE WHEN count(*) FILTER (WHERE expect = 'zero' AND result <> '0' OR expect = 'nonzero' AND result = '0') = 0
            THEN 'PASS'
            ELSE 'FAIL: ' || string_agg(DISTINCT check_id, ', ')
                 FILTER (WHERE expect = 'zero' AND result <> '0' OR expect = 'nonzero' AND result = '0') END AS result
FROM pg_temp.check_results;

COMMIT;
