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

-- Checks before migration 009. Changes nothing: everything it creates is in pg_temp and ends with the session.
--
--   psql -h localhost -U postgres mandate < 009_PRE_MIGRATION_CHECKS.sql
--
-- Annotated like those of 008: `-- check: <id> expect=zero|nonzero|any` returns rows of (check_name, result); it passes when
-- every row's result is as expected. In the same session pg_temp.bad_<id> lists the offending rows. A failed check is not an
-- SQL error: all checks are printed, and the summary at the end says READY or NOT READY.

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

-- Is there anything to check? ----------------------------------------------------------------------------------------

DO $$
BEGIN
    IF current_setting('server_version_num')::int < 140000 THEN
        RAISE EXCEPTION 'PostgreSQL 14 or newer is needed; this server is %', current_setting('server_version');
    ELSIF to_regclass('mandate.identity_map') IS NULL OR to_regclass('mandate.scopes') IS NULL
        OR to_regclass('mandate.policy_snapshots') IS NULL OR to_regclass('mandate.decision_events') IS NULL
        OR to_regclass('mandate.verdict_events') IS NULL OR to_regclass('mandate.audit_timeline_entries') IS NULL
        OR to_regclass('mandate.mandate_specs') IS NULL THEN
        RAISE EXCEPTION 'database "%" is not a Mandate database of version 8', current_database()
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

CREATE TEMP VIEW v9_version AS
SELECT CASE WHEN to_regclass('mandate.spec_events') IS NOT NULL
                 AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'mandate.decision_events'::regclass
                             AND attname = 'received_at' AND NOT attisdropped) THEN 9 ELSE 8 END AS version;

-- How the conductor's engine stands with 008 and 009, if it ever worked here.
DO $$
BEGIN
    IF to_regclass('mandate_conductor.rekeys') IS NULL THEN
        CREATE TEMP VIEW v9_engine AS SELECT NULL::text AS name, NULL::text AS status WHERE false;
    ELSE
        EXECUTE 'CREATE TEMP VIEW v9_engine AS SELECT DISTINCT ON (name) name, status FROM mandate_conductor.rekeys '
                'WHERE name IN (''008'', ''009'') ORDER BY name, id DESC';
    END IF;
END
$$;

CREATE TEMP TABLE v9_tables (n integer, table_name text, parent boolean);
INSERT INTO pg_temp.v9_tables VALUES
    (1, 'scopes', true), (2, 'policy_snapshots', true), (3, 'decision_events', true), (4, 'verdict_events', false),
    (5, 'audit_timeline_entries', false), (6, 'mandate_specs', false), (7, 'identity_map', false);

-- What is wrong, check by check --------------------------------------------------------------------------------------

CREATE TEMP VIEW bad_no_organization AS
SELECT 'identity_map' AS table_name, kind || ' ' || old_key AS row_key, new_key
FROM mandate.identity_map WHERE organization_id IS NULL;

CREATE TEMP VIEW bad_other_decision AS
SELECT 'verdict_events' AS table_name, v.verdict_id::text AS row_key, v.organization_id, v.domain, v.decision_id,
       d.organization_id AS other_organization_id, d.domain AS other_domain
FROM mandate.verdict_events v LEFT JOIN mandate.decision_events d USING (decision_id)
WHERE (v.organization_id, v.domain) IS DISTINCT FROM (d.organization_id, d.domain)
UNION ALL
SELECT 'audit_timeline_entries', t.entry_id::text, t.organization_id, t.domain, t.decision_id, d.organization_id, d.domain
FROM mandate.audit_timeline_entries t LEFT JOIN mandate.decision_events d USING (decision_id)
WHERE (t.organization_id, t.domain) IS DISTINCT FROM (d.organization_id, d.domain);

CREATE TEMP VIEW bad_other_snapshot AS
SELECT 'verdict_events' AS table_name, v.verdict_id::text AS row_key, v.organization_id, v.domain, v.snapshot_id,
       p.organization_id AS other_organization_id, p.domain AS other_domain
FROM mandate.verdict_events v LEFT JOIN mandate.policy_snapshots p USING (snapshot_id)
WHERE (v.organization_id, v.domain) IS DISTINCT FROM (p.organization_id, p.domain);

CREATE TEMP VIEW bad_other_scope AS
SELECT 'verdict_events' AS table_name, v.verdict_id::text AS row_key, v.organization_id, v.domain, v.scope_id,
       s.organization_id AS other_organization_id, s.domain AS other_domain
FROM mandate.verdict_events v LEFT JOIN mandate.scopes s USING (scope_id)
WHERE v.scope_id IS NOT NULL AND (v.organization_id, v.domain) IS DISTINCT FROM (s.organization_id, s.domain);

CREATE TEMP VIEW bad_foreign_keys AS
SELECT c.conrelid::regclass::text AS object, c.conname::text AS constraint_name, pg_get_constraintdef(c.oid) AS definition
FROM pg_constraint c
WHERE c.contype = 'f' AND c.confrelid IN (SELECT to_regclass('mandate.' || table_name) FROM pg_temp.v9_tables)
  AND c.conrelid NOT IN (SELECT to_regclass('mandate.' || table_name) FROM pg_temp.v9_tables)
  AND c.conrelid IS DISTINCT FROM to_regclass('mandate.spec_events');

CREATE TEMP VIEW bad_partitions AS
SELECT 'mandate.' || t.table_name AS object FROM pg_temp.v9_tables t
WHERE EXISTS (SELECT FROM pg_inherits i WHERE to_regclass('mandate.' || t.table_name) IN (i.inhparent, i.inhrelid));

CREATE TEMP VIEW bad_leftovers AS
SELECT 'mandate.spec_events' AS object, 'without decision_events.received_at' AS problem
WHERE to_regclass('mandate.spec_events') IS NOT NULL AND (SELECT version FROM pg_temp.v9_version) = 8
UNION ALL
SELECT 'mandate.decision_events.received_at', 'without mandate.spec_events'
WHERE to_regclass('mandate.spec_events') IS NULL
  AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'mandate.decision_events'::regclass
              AND attname = 'received_at' AND NOT attisdropped)
UNION ALL
SELECT 'schema ' || n.nspname,
       CASE WHEN e.name = '008' AND e.status = 'swapped' THEN 'migration 008 is not finalized: mandate finalize 008'
            WHEN e.name = '009' AND e.status = 'running'
            THEN 'of a run of the engine: mandate run 009 goes on with it, mandate abort 009 drops it'
            WHEN e.name = '009' AND e.status = 'rolled back'
            THEN 'of a rollback that has not ended: mandate rollback 009 ends it'
            ELSE 'built by a run that is over or unknown: mandate abort ' || right(n.nspname, 3) END
FROM pg_namespace n LEFT JOIN pg_temp.v9_engine e ON e.name = right(n.nspname, 3)
WHERE n.nspname ~ '^mandate_(rekey|new|pre)_00[89]$' AND (SELECT version FROM pg_temp.v9_version) = 8
  -- The conductor sets it where the engine is to migrate: what the engine goes on with is no leftover then.
  AND NOT (COALESCE(current_setting('mandate.by_engine', true), '') = 'on' AND e.name = '009'
           AND e.status IN ('running', 'rolled back'));

CREATE TEMP VIEW bad_long_transactions AS
SELECT pid, usename::text, application_name, state, xact_start FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND xact_start < clock_timestamp()
      - COALESCE(NULLIF(current_setting('mandate.long_transaction', true), ''), '1 minute')::interval;

-- The checks ---------------------------------------------------------------------------------------------------------

\echo '=== 1. ORGANIZATIONS AND DOMAINS ==='

-- check: no_organization expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'no_organization', 'zero', 'identity_map without organization_id', count(*) FROM pg_temp.bad_no_organization
RETURNING check_name, result::bigint;

-- check: other_decision expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'other_decision', 'zero', t.name || ' in another organization or domain than their decision', count(b.row_key)
FROM (VALUES ('verdict_events'), ('audit_timeline_entries')) t (name)
LEFT JOIN pg_temp.bad_other_decision b ON b.table_name = t.name GROUP BY t.name ORDER BY t.name
RETURNING check_name, result::bigint;

-- check: other_snapshot expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'other_snapshot', 'zero', 'verdict_events in another organization or domain than their snapshot', count(*)
FROM pg_temp.bad_other_snapshot
RETURNING check_name, result::bigint;

-- check: other_scope expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'other_scope', 'zero', 'verdict_events in another organization or domain than their scope', count(*)
FROM pg_temp.bad_other_scope
RETURNING check_name, result::bigint;

\echo '=== 2. OBJECTS ==='

-- check: foreign_keys expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'foreign_keys', 'zero', 'foreign keys of other tables to a primary key that becomes another', count(*)
FROM pg_temp.bad_foreign_keys
RETURNING check_name, result::bigint;

-- check: partitions expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'partitions', 'zero', 'tables with inheritance children or partitions', count(*) FROM pg_temp.bad_partitions
RETURNING check_name, result::bigint;

-- check: leftovers expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'leftovers', 'zero', 'left of an earlier attempt, or of a migration that is not finalized', count(*)
FROM pg_temp.bad_leftovers
RETURNING check_name, result::bigint;

-- check: long_transactions expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'long_transactions', 'zero', 'transactions open for long', count(*) FROM pg_temp.bad_long_transactions
RETURNING check_name, result::bigint;

\echo '=== 3. FIGURES ==='

-- check: rows expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'rows', 'any', 'rows of ' || name || ' (information)', n
FROM (SELECT 'decision_events' AS name, count(*) AS n FROM mandate.decision_events
      UNION ALL SELECT 'verdict_events', count(*) FROM mandate.verdict_events
      UNION ALL SELECT 'audit_timeline_entries', count(*) FROM mandate.audit_timeline_entries) r
RETURNING check_name, result::bigint;

-- check: bytes_needed expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'bytes_needed', 'any', 'disk space needed, bytes (information)',
       sum(pg_total_relation_size(to_regclass('mandate.' || table_name))) FROM pg_temp.v9_tables
RETURNING check_name, result::bigint;

-- check: schema_version expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'schema_version', 'any', 'schema version (information)', version::text FROM pg_temp.v9_version
RETURNING check_name, result;

\echo ''
\echo '=== MIGRATION READINESS SUMMARY ==='

-- check: readiness expect=any
SELECT 'readiness' AS check_name,
       CASE WHEN (SELECT version FROM pg_temp.v9_version) = 9
            THEN 'ALREADY AT VERSION 9, nothing to migrate'
                 || CASE WHEN EXISTS (SELECT FROM pg_temp.v9_engine WHERE (name, status) = ('009', 'swapped'))
                         THEN '; the reverse window is open: mandate rollback 009, or mandate finalize 009'
                         ELSE '' END
            WHEN count(*) FILTER (WHERE expect = 'zero' AND result <> '0') = 0 THEN 'READY'
            ELSE 'NOT READY, failed: ' || string_agg(DISTINCT check_id, ', ') FILTER (WHERE expect = 'zero' AND result <> '0')
       END AS result
FROM pg_temp.check_results;

-- What to look at: the first rows of each failed check. All of them: SELECT * FROM pg_temp.bad_<check>.
DO $$
DECLARE
    item record;
BEGIN
    CREATE TEMP TABLE v9_shown (n integer GENERATED ALWAYS AS IDENTITY, check_id text, offender text);
    FOR item IN SELECT check_id FROM pg_temp.check_results WHERE expect = 'zero' AND result <> '0'
                GROUP BY check_id ORDER BY min(n) LOOP
        EXECUTE format('INSERT INTO pg_temp.v9_shown (check_id, offender) '
                       'SELECT %L, to_json(b)::text FROM pg_temp.%I b LIMIT 5', item.check_id, 'bad_' || item.check_id);
    END LOOP;
END
$$;
SELECT '  ' || check_id, offender FROM pg_temp.v9_shown ORDER BY n;

COMMIT;
