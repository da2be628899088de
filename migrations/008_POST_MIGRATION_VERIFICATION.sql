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

-- Verification after migration 008. Changes nothing: everything it creates is in pg_temp and ends with the session.
--
--   psql -h localhost -U postgres mandate < 008_POST_MIGRATION_VERIFICATION.sql
--
-- Annotated like the pre-migration checks: `-- check: <id> expect=zero|nonzero|any` returns rows of
-- (check_name, result), `expect=rows` a table to read; pg_temp.bad_<id> lists the offending rows. Every figure is
-- computed from the catalogue or the data of this moment. On a version 7 database it runs too, and fails.

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
        OR to_regclass('mandate.verdict_events') IS NULL OR to_regclass('mandate.audit_timeline_entries') IS NULL THEN
        RAISE EXCEPTION 'database "%" is not a Mandate database', current_database()
            USING HINT = 'Connect to the right database.';
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
                  AND relname ~ '^(bad_|v8_|check_results$)' LOOP
        EXECUTE format('DROP %s IF EXISTS pg_temp.%I CASCADE',
                       CASE item.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, item.relname);
    END LOOP;
END
$$;

CREATE TEMP TABLE check_results (
    n integer GENERATED ALWAYS AS IDENTITY, check_id text, expect text, check_name text, result text
);

CREATE TEMP TABLE v8_tables (n integer, table_name text, short_name text, key_column text, attributed boolean);
INSERT INTO pg_temp.v8_tables VALUES
    (1, 'scopes', 'scopes', 'scope_id', true), (2, 'policy_snapshots', 'policy_snapshots', 'snapshot_id', true),
    (3, 'decision_events', 'decision_events', 'decision_id', true),
    (4, 'verdict_events', 'verdict_events', 'verdict_id', true),
    (5, 'audit_timeline_entries', 'audit_timeline', 'entry_id', true),
    (6, 'domains', 'domains', 'domain', false), (7, 'organizations', 'organizations', 'organization_id', false),
    (8, 'mandate_specs', 'mandate_specs', 'spec_id', false), (9, 'identity_map', 'identity_map', 'old_key', false),
    (10, 'migration_log', 'migration_log', 'id', false);

CREATE TEMP VIEW v8_columns AS
SELECT c.relname AS table_name, a.attname AS column_name, format_type(a.atttypid, NULL) AS data_type, a.attnotnull
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND a.attnum > 0 AND NOT a.attisdropped;

CREATE OR REPLACE FUNCTION pg_temp.v8_column(tab text, col text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT format('t.%I::text AS %I', col, col) FROM pg_temp.v8_columns
                     WHERE table_name = tab AND column_name = col), format('NULL::text AS %I', col))
$$;

-- Every table as text, NULL where a column is missing, so that the same questions can be put to any version.
DO $$
DECLARE
    item record;
    parts text[] := '{}';
BEGIN
    FOR item IN SELECT table_name AS tab, key_column FROM pg_temp.v8_tables WHERE attributed ORDER BY n LOOP
        EXECUTE format('CREATE TEMP VIEW v8_%1$s AS SELECT %1$L::text AS table_name, t.%2$I::text AS row_key, %3$s, %4$s, '
                       '%5$s, %6$s, %7$s FROM mandate.%1$I t', item.tab, item.key_column,
                       pg_temp.v8_column(item.tab, 'organization_id'), pg_temp.v8_column(item.tab, 'domain'),
                       CASE item.tab WHEN 'scopes' THEN 'NULL::text AS scope_id'
                                     ELSE pg_temp.v8_column(item.tab, 'scope_id') END,
                       CASE WHEN item.tab = 'decision_events' THEN 'NULL::uuid AS decision_id'
                            WHEN item.tab IN ('scopes', 'policy_snapshots') THEN 'NULL::uuid AS decision_id'
                            ELSE 't.decision_id' END,
                       CASE item.tab WHEN 'verdict_events' THEN 't.snapshot_id' ELSE 'NULL::uuid AS snapshot_id' END);
        parts := parts || format('SELECT * FROM pg_temp.v8_%s', item.tab);
    END LOOP;
    EXECUTE 'CREATE TEMP VIEW v8_rows AS ' || array_to_string(parts, ' UNION ALL ');
    EXECUTE format('CREATE TEMP VIEW v8_domains AS SELECT t.organization_id::text, %s FROM mandate.domains t',
                   pg_temp.v8_column('domains', 'domain'));
    IF to_regclass('mandate.identity_map') IS NULL THEN
        CREATE TEMP VIEW v8_identity_map AS
        SELECT NULL::text AS kind, NULL::text AS old_key, NULL::text AS new_key, NULL::text AS organization_id WHERE false;
    ELSE
        EXECUTE 'CREATE TEMP VIEW v8_identity_map AS '
                'SELECT kind, old_key, new_key, organization_id::text FROM mandate.identity_map';
    END IF;
    IF to_regclass('mandate.migration_log') IS NULL THEN
        CREATE TEMP VIEW v8_migration_log AS SELECT NULL::integer AS migration_version WHERE false;
    ELSE
        EXECUTE 'CREATE TEMP VIEW v8_migration_log AS SELECT migration_version FROM mandate.migration_log';
    END IF;
END
$$;

-- One pass over each table; the rows of equal attribution are counted together.
CREATE TEMP TABLE v8_profile AS
SELECT table_name, organization_id, domain, scope_id, count(*) AS n FROM pg_temp.v8_rows GROUP BY 1, 2, 3, 4;
ANALYZE pg_temp.v8_profile;

CREATE TEMP TABLE v8_scope_domains AS SELECT row_key AS scope_id, domain FROM pg_temp.v8_scopes;
CREATE INDEX ON pg_temp.v8_scope_domains (scope_id);
ANALYZE pg_temp.v8_scope_domains;

CREATE TEMP TABLE v8_counts AS
SELECT t.n, t.table_name,
       COALESCE(sum(p.n), 0)::bigint AS total,
       COALESCE(sum(p.n) FILTER (WHERE p.n IS NOT NULL AND p.domain IS NULL), 0)::bigint AS null_domain,
       COALESCE(sum(p.n) FILTER (WHERE p.n IS NOT NULL AND p.organization_id IS NULL), 0)::bigint AS null_organization,
       COALESCE(sum(p.n) FILTER (WHERE p.domain !~ '^[a-z0-9_-]+$'), 0)::bigint AS not_slug,
       COALESCE(sum(p.n) FILTER (WHERE p.domain IS NOT NULL AND d.domain IS NULL), 0)::bigint AS orphan_domain,
       COALESCE(sum(p.n) FILTER (WHERE p.scope_id IS NOT NULL AND s.scope_id IS NULL), 0)::bigint AS orphan_scope,
       COALESCE(sum(p.n) FILTER (WHERE s.domain <> p.domain), 0)::bigint AS other_scope
FROM pg_temp.v8_tables t
LEFT JOIN pg_temp.v8_profile p USING (table_name)
LEFT JOIN pg_temp.v8_domains d ON d.organization_id = p.organization_id AND d.domain = p.domain
LEFT JOIN pg_temp.v8_scope_domains s ON s.scope_id = p.scope_id
WHERE t.attributed
GROUP BY t.n, t.table_name;

-- What is wrong, check by check --------------------------------------------------------------------------------------

CREATE TEMP VIEW bad_domain_id_columns AS
SELECT table_name::text, column_name::text, data_type FROM pg_temp.v8_columns WHERE column_name = 'domain_id';

CREATE TEMP VIEW bad_domain_column_configuration AS
SELECT t.table_name, COALESCE(c.data_type, 'is missing') AS data_type,
       CASE WHEN c.attnotnull THEN 'not null' ELSE 'nullable' END AS nullability
FROM pg_temp.v8_tables t LEFT JOIN pg_temp.v8_columns c ON c.table_name = t.table_name AND c.column_name = 'domain'
WHERE (t.attributed OR t.table_name IN ('domains', 'mandate_specs'))
  AND (c.data_type IS DISTINCT FROM 'text' OR NOT c.attnotnull);

CREATE TEMP VIEW bad_scope_id_type AS
SELECT w.table_name, COALESCE(c.data_type, 'is missing') AS data_type
FROM (VALUES ('scopes'), ('verdict_events')) w (table_name)
LEFT JOIN pg_temp.v8_columns c ON c.table_name = w.table_name AND c.column_name = 'scope_id'
WHERE c.data_type IS DISTINCT FROM 'text';

CREATE TEMP VIEW bad_scope_domain_prefix AS
SELECT 'scopes' AS table_name, row_key, domain FROM pg_temp.v8_scopes
WHERE NOT COALESCE(starts_with(row_key, domain || '.'), false);

CREATE TEMP VIEW bad_attribution_null AS
SELECT table_name, row_key, organization_id, domain FROM pg_temp.v8_rows WHERE domain IS NULL OR organization_id IS NULL;

CREATE TEMP VIEW v8_keys AS
SELECT c.conname, r.relname AS table_name, f.relname AS parent, c.contype, c.convalidated, c.oid,
       (SELECT string_agg(a.attname, ', ' ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k (attnum, n)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum) AS columns
FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid LEFT JOIN pg_class f ON f.oid = c.confrelid
WHERE r.relnamespace = 'mandate'::regnamespace;

CREATE TEMP VIEW bad_primary_keys AS
SELECT w.table_name, w.columns AS primary_key_wanted,
       (SELECT k.columns FROM pg_temp.v8_keys k WHERE k.table_name = w.table_name AND k.contype = 'p') AS primary_key
FROM (VALUES ('domains', 'organization_id, domain'), ('scopes', 'scope_id'), ('policy_snapshots', 'snapshot_id'),
             ('decision_events', 'decision_id'), ('verdict_events', 'verdict_id'), ('audit_timeline_entries', 'entry_id'),
             ('identity_map', 'kind, old_key'), ('migration_log', 'id')) w (table_name, columns)
WHERE NOT EXISTS (SELECT FROM pg_temp.v8_keys k
                  WHERE k.table_name = w.table_name AND k.contype = 'p' AND k.columns = w.columns);

CREATE TEMP VIEW bad_foreign_keys AS
SELECT w.table_name, w.columns, w.parent,
       CASE WHEN k.oid IS NULL THEN 'is missing' ELSE 'is not validated' END AS problem
FROM (SELECT table_name, 'organization_id, domain' AS columns, 'domains' AS parent FROM pg_temp.v8_tables WHERE attributed
      UNION ALL SELECT table_name, 'organization_id', 'organizations' FROM pg_temp.v8_tables WHERE attributed
      UNION ALL VALUES ('domains', 'organization_id', 'organizations'), ('verdict_events', 'scope_id', 'scopes'),
                       ('verdict_events', 'decision_id', 'decision_events'),
                       ('verdict_events', 'snapshot_id', 'policy_snapshots'),
                       ('audit_timeline_entries', 'decision_id', 'decision_events')) w
LEFT JOIN pg_temp.v8_keys k ON k.table_name = w.table_name AND k.contype = 'f' AND k.columns = w.columns
                           AND k.parent = w.parent
WHERE k.oid IS NULL OR NOT k.convalidated;

-- The rows themselves, whatever the constraints claim.
CREATE TEMP VIEW bad_orphans AS
SELECT r.table_name, r.row_key, 'domains' AS parent, r.domain AS missing FROM pg_temp.v8_rows r
LEFT JOIN pg_temp.v8_domains d ON d.organization_id = r.organization_id AND d.domain = r.domain
WHERE r.domain IS NOT NULL AND d.domain IS NULL
UNION ALL
SELECT r.table_name, r.row_key, 'scopes', r.scope_id FROM pg_temp.v8_rows r
WHERE r.scope_id IS NOT NULL AND NOT EXISTS (SELECT FROM pg_temp.v8_scope_domains s WHERE s.scope_id = r.scope_id)
UNION ALL
SELECT r.table_name, r.row_key, 'decision_events', r.decision_id::text FROM pg_temp.v8_rows r
LEFT JOIN mandate.decision_events d ON d.decision_id = r.decision_id
WHERE r.decision_id IS NOT NULL AND d.decision_id IS NULL
UNION ALL
SELECT r.table_name, r.row_key, 'policy_snapshots', r.snapshot_id::text FROM pg_temp.v8_rows r
LEFT JOIN mandate.policy_snapshots p ON p.snapshot_id = r.snapshot_id
WHERE r.snapshot_id IS NOT NULL AND p.snapshot_id IS NULL;

CREATE TEMP VIEW bad_slug_constraints AS
SELECT t.table_name, t.table_name || '_domain_slug_format' AS constraint_name FROM pg_temp.v8_tables t
WHERE (t.attributed OR t.table_name = 'domains')
  AND NOT EXISTS (SELECT FROM pg_temp.v8_keys k
                  WHERE k.table_name = t.table_name AND k.conname = t.table_name || '_domain_slug_format'
                    AND k.contype = 'c' AND k.convalidated
                    AND pg_get_constraintdef(k.oid) = 'CHECK ((domain ~ ''^[a-z0-9_-]+$''::text))');

CREATE TEMP VIEW bad_slug_format AS
SELECT table_name, row_key, domain FROM pg_temp.v8_rows WHERE domain !~ '^[a-z0-9_-]+$'
UNION ALL
SELECT 'domains', domain, domain FROM pg_temp.v8_domains WHERE domain !~ '^[a-z0-9_-]+$';

CREATE TEMP VIEW bad_indexes AS
SELECT w.index_name, 'is missing or invalid' AS problem
FROM (SELECT format('idx_%s_organization_domain', short_name) AS index_name FROM pg_temp.v8_tables WHERE attributed
      UNION ALL VALUES ('idx_verdict_events_scope_id_text'), ('idx_scopes_selectors')) w
WHERE NOT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = to_regclass('mandate.' || w.index_name)
                  AND i.indisvalid AND i.indisready)
UNION ALL
SELECT c.relname, 'is invalid' FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'mandate'::regnamespace AND NOT (i.indisvalid AND i.indisready)
UNION ALL
SELECT c.relname, 'is an index of version 7' FROM pg_class c
WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind = 'i'
  AND (c.relname ~ '^idx_(scopes|policy_snapshots|decision_events|verdict_events|audit_timeline)_domain_id$'
       OR c.relname = 'idx_verdict_events_scope_id');

CREATE TEMP VIEW bad_append_only AS
SELECT t.table_name, e.event
FROM pg_temp.v8_tables t CROSS JOIN (VALUES ('UPDATE', 16), ('DELETE', 8), ('TRUNCATE', 32)) e (event, bit)
WHERE NOT EXISTS (SELECT FROM pg_trigger g
                  WHERE g.tgrelid = to_regclass('mandate.' || t.table_name) AND NOT g.tgisinternal
                    AND g.tgname ~ '^prevent_.*_(mutation|truncate)$' AND g.tgenabled IN ('O', 'A')
                    AND g.tgtype & 2 = 2 AND g.tgtype & e.bit = e.bit AND g.tgqual IS NULL);

CREATE TEMP VIEW bad_scope_prefix_trigger AS
SELECT 'trigger validate_scopes_scope_id_domain_prefix' AS object, 'is missing, disabled or does not cover INSERT' AS problem
WHERE NOT EXISTS (SELECT FROM pg_trigger
                  WHERE tgrelid = 'mandate.scopes'::regclass AND tgname = 'validate_scopes_scope_id_domain_prefix'
                    AND tgenabled IN ('O', 'A') AND tgtype & 7 = 7);

CREATE TEMP VIEW bad_identity_map AS
SELECT m.kind, m.old_key, m.new_key FROM pg_temp.v8_identity_map m
WHERE CASE m.kind
      WHEN 'domain' THEN NOT EXISTS (SELECT FROM pg_temp.v8_domains d
                                     WHERE d.domain = m.new_key AND d.organization_id = m.organization_id)
      ELSE NOT EXISTS (SELECT FROM pg_temp.v8_scope_domains s WHERE s.scope_id = m.new_key) END;

CREATE TEMP VIEW v8_policies AS
SELECT p.snapshot_id, p.organization_id::text, e.ordinality AS place, e.value AS policy
FROM mandate.policy_snapshots p CROSS JOIN LATERAL jsonb_array_elements(p.policies) WITH ORDINALITY e;

CREATE TEMP VIEW bad_policy_keys AS
SELECT 'policy_snapshots' AS table_name, p.snapshot_id::text AS row_key, p.place, p.policy ->> 'id' AS policy_id,
       x.problem
FROM pg_temp.v8_policies p CROSS JOIN LATERAL (
    SELECT 'still has a domain_id' AS problem WHERE p.policy ? 'domain_id'
    UNION ALL
    SELECT 'scope_id ' || (p.policy ->> 'scope_id') || ' is not in scopes'
    WHERE p.policy ->> 'scope_id' IS NOT NULL
      AND NOT EXISTS (SELECT FROM pg_temp.v8_scope_domains s WHERE s.scope_id = p.policy ->> 'scope_id')
    UNION ALL
    SELECT 'domain ' || (p.policy ->> 'domain') || ' is not in domains'
    WHERE p.policy ->> 'domain' IS NOT NULL
      AND NOT EXISTS (SELECT FROM pg_temp.v8_domains d
                      WHERE d.organization_id = p.organization_id AND d.domain = p.policy ->> 'domain')) x;

CREATE TEMP VIEW bad_verdict_scope_domain AS
SELECT r.table_name, r.row_key, r.scope_id, r.domain, s.domain AS scope_domain
FROM pg_temp.v8_verdict_events r JOIN pg_temp.v8_scope_domains s ON s.scope_id = r.scope_id WHERE s.domain <> r.domain;

-- The verifications --------------------------------------------------------------------------------------------------

\echo '=== VERIFICATION 1: domain_id Column Removal ==='

-- check: domain_id_columns expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_id_columns', 'zero', 'Remaining domain_id columns in mandate schema', count(*)
FROM pg_temp.bad_domain_id_columns
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 2: Domain Column Configuration ==='
\pset tuples_only off
\pset fieldsep ' | '

-- check: domain_columns expect=rows
SELECT t.table_name, COALESCE(c.data_type, 'is missing') AS data_type
FROM pg_temp.v8_tables t LEFT JOIN pg_temp.v8_columns c ON c.table_name = t.table_name AND c.column_name = 'domain'
WHERE t.attributed OR t.table_name IN ('domains', 'mandate_specs')
ORDER BY t.n;

\pset tuples_only on
\pset fieldsep ': '

-- check: domain_column_configuration expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_column_configuration', 'zero', 'domain columns that are missing, not text or nullable', count(*)
FROM pg_temp.bad_domain_column_configuration
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 3: scope_id Type Conversion ==='

-- check: scope_id_data_type expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'scope_id_data_type', 'any', 'data_type', data_type FROM pg_temp.v8_columns
WHERE table_name = 'scopes' AND column_name = 'scope_id'
RETURNING check_name, result;

-- check: scope_id_type expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'scope_id_type', 'zero', 'scope_id columns that are not text', count(*) FROM pg_temp.bad_scope_id_type
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 4: scope_id Domain Prefix Consistency ==='

-- check: scope_domain_prefix_match expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'scope_domain_prefix_match', 'any', 'scopes_with_domain_prefix_match', count(*) FROM pg_temp.v8_scopes
WHERE starts_with(row_key, domain || '.')
RETURNING check_name, result::bigint;

-- check: scope_domain_prefix expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'scope_domain_prefix', 'zero', 'scopes_with_domain_prefix_mismatch', count(*) FROM pg_temp.bad_scope_domain_prefix
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 5: NULL Attribution ==='

-- check: attribution_null expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'attribution_null', 'zero', x.check_name, x.result
FROM pg_temp.v8_counts c CROSS JOIN LATERAL (
    VALUES (table_name || '.domain NULL count', null_domain),
           (table_name || '.organization_id NULL count', null_organization)) x (check_name, result)
ORDER BY c.n, x.check_name
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 6: Primary Keys ==='

-- check: primary_keys expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'primary_keys', 'zero', 'primary keys that are missing or different', count(*) FROM pg_temp.bad_primary_keys
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 7: Foreign Keys ==='

-- check: foreign_keys expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'foreign_keys', 'zero', 'foreign keys that are missing or not validated', count(*) FROM pg_temp.bad_foreign_keys
RETURNING check_name, result::bigint;

-- check: orphans expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'orphans', 'zero', check_name, result FROM (
    SELECT n, table_name || '.domain -> domains.domain orphans' AS check_name, orphan_domain AS result FROM pg_temp.v8_counts
    UNION ALL
    SELECT 10, 'verdict_events.scope_id -> scopes.scope_id orphans', orphan_scope FROM pg_temp.v8_counts
    WHERE table_name = 'verdict_events'
    UNION ALL
    SELECT 11, 'verdict_events.decision_id -> decision_events.decision_id orphans', count(*)
    FROM mandate.verdict_events v LEFT JOIN mandate.decision_events d USING (decision_id) WHERE d.decision_id IS NULL
    UNION ALL
    SELECT 12, 'audit_timeline_entries.decision_id -> decision_events.decision_id orphans', count(*)
    FROM mandate.audit_timeline_entries a LEFT JOIN mandate.decision_events d USING (decision_id)
    WHERE d.decision_id IS NULL
    UNION ALL
    SELECT 13, 'verdict_events.snapshot_id -> policy_snapshots.snapshot_id orphans', count(*)
    FROM mandate.verdict_events v LEFT JOIN mandate.policy_snapshots p USING (snapshot_id) WHERE p.snapshot_id IS NULL
) x ORDER BY n
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 8: Domain Slug Format ==='

-- check: slug_constraints expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'slug_constraints', 'zero', 'slug constraints that are missing or different', count(*)
FROM pg_temp.bad_slug_constraints
RETURNING check_name, result::bigint;

-- check: slug_format expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'slug_format', 'zero', 'domains that are not slugs', (SELECT sum(not_slug) FROM pg_temp.v8_counts)
       + (SELECT count(*) FROM pg_temp.v8_domains WHERE domain !~ '^[a-z0-9_-]+$')
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 9: Indexes ==='

-- check: indexes expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'indexes', 'zero', 'indexes that are missing, invalid or of version 7', count(*) FROM pg_temp.bad_indexes
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 10: Append-Only Protection ==='

-- check: append_only expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'append_only', 'zero', 'tables and commands (UPDATE, DELETE, TRUNCATE) not refused', count(*)
FROM pg_temp.bad_append_only
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 11: scope_id Prefix Trigger ==='

-- check: scope_prefix_trigger expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'scope_prefix_trigger', 'zero', 'missing or disabled scope_id prefix triggers', count(*)
FROM pg_temp.bad_scope_prefix_trigger
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 12: Identity Map ==='

-- check: identity_map_rows expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'identity_map_rows', 'any', kind || ' UUIDs that resolve', count(m.kind)
FROM (VALUES ('domain'), ('scope')) k (kind) LEFT JOIN pg_temp.v8_identity_map m USING (kind) GROUP BY kind ORDER BY kind
RETURNING check_name, result::bigint;

-- check: identity_map expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'identity_map', 'zero', 'UUIDs that resolve to nothing', count(*) FROM pg_temp.bad_identity_map
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 13: Keys in Policies and Verdicts ==='

-- check: policy_keys expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'policy_keys', 'zero', 'policies that name an unknown scope or domain', count(*) FROM pg_temp.bad_policy_keys
RETURNING check_name, result::bigint;

-- check: verdict_scope_domain expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'verdict_scope_domain', 'zero', 'verdict_events whose scope belongs to another domain', other_scope
FROM pg_temp.v8_counts WHERE table_name = 'verdict_events'
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION 14: Migration Log and Row Counts ==='

-- check: migration_log expect=nonzero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'migration_log', 'nonzero', 'migration_log rows of version 8', count(*) FROM pg_temp.v8_migration_log
WHERE migration_version = 8
RETURNING check_name, result::bigint;

-- check: row_counts expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'row_counts', 'any', table_name || ' row count', total FROM (
    SELECT 0 AS n, 'domains' AS table_name, count(*) AS total FROM pg_temp.v8_domains
    UNION ALL SELECT n, table_name, total FROM pg_temp.v8_counts) x ORDER BY n
RETURNING check_name, result::bigint;

\echo ''
\echo '=== VERIFICATION SUMMARY ==='
\echo 'All checks should show PASS or 0 for error counts.'

-- check: verification expect=any
SELECT 'verification' AS check_name,
       COALESCE('FAIL: ' || string_agg(DISTINCT check_id, ', ')
                            FILTER (WHERE expect = 'zero' AND result <> '0' OR expect = 'nonzero' AND result = '0'),
                'PASS') AS result
FROM pg_temp.check_results;

COMMIT;
