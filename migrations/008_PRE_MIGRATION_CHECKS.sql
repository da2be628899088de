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

-- Checks before migration 008. Changes nothing: everything it creates is in pg_temp and ends with the session.
--
--   psql -h localhost -U postgres mandate < 008_PRE_MIGRATION_CHECKS.sql
--
-- Each check is annotated `-- check: <id> expect=zero|nonzero|any` and returns rows of (check_name, result); it passes
-- when every row's result is as expected. In the same session pg_temp.bad_<id> lists the offending rows. A failed check
-- is not an SQL error: all checks are printed, and the summary at the end says READY or NOT READY.

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
    ELSIF to_regclass('mandate.organizations') IS NULL OR to_regclass('mandate.domains') IS NULL
        OR to_regclass('mandate.scopes') IS NULL OR to_regclass('mandate.policy_snapshots') IS NULL
        OR to_regclass('mandate.decision_events') IS NULL OR to_regclass('mandate.verdict_events') IS NULL
        OR to_regclass('mandate.audit_timeline_entries') IS NULL THEN
        RAISE EXCEPTION 'database "%" is not a Mandate database of version 7', current_database()
            USING HINT = 'Connect to the right database, or apply migrations 001 to 007 first.';
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
                  AND relname ~ '^(bad_|v7_|check_results$)' LOOP
        EXECUTE format('DROP %s IF EXISTS pg_temp.%I CASCADE',
                       CASE item.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, item.relname);
    END LOOP;
END
$$;

CREATE TEMP TABLE check_results (
    n integer GENERATED ALWAYS AS IDENTITY, check_id text, expect text, check_name text, result text
);

-- The shape of this database, made uniform: views with all columns, NULL where a column is missing ------------------

CREATE TEMP TABLE v7_tables (n integer, table_name text, key_column text);
INSERT INTO pg_temp.v7_tables VALUES
    (1, 'scopes', 'scope_id'), (2, 'policy_snapshots', 'snapshot_id'), (3, 'decision_events', 'decision_id'),
    (4, 'verdict_events', 'verdict_id'), (5, 'audit_timeline_entries', 'entry_id');

CREATE TEMP VIEW v7_columns AS
SELECT c.relname AS table_name, a.attname AS column_name, a.attrelid, a.attnum,
       format_type(a.atttypid, NULL) AS data_type
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped;

CREATE TEMP VIEW v7_version AS
SELECT CASE WHEN to_regclass('mandate.identity_map') IS NOT NULL AND NOT EXISTS (
                SELECT FROM pg_temp.v7_columns
                WHERE column_name = 'domain_id'
                  AND (table_name = 'domains' OR table_name IN (SELECT table_name FROM pg_temp.v7_tables)))
            THEN 8 ELSE 7 END AS version;

CREATE OR REPLACE FUNCTION pg_temp.v7_column(tab text, col text, type text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT format('t.%I::%s AS %I', col, type, col) FROM pg_temp.v7_columns
                     WHERE table_name = tab AND column_name = col
                       AND (data_type = type OR type = 'text' AND data_type ~ '^character')),
                    format('NULL::%s AS %I', type, col))
$$;

CREATE OR REPLACE FUNCTION pg_temp.v7_hex(id text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.lower(pg_catalog.translate(id, '{}-', ''))
$$;

CREATE OR REPLACE FUNCTION pg_temp.v7_slug(name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.regexp_replace(pg_catalog.lower(name COLLATE "C"), '[^a-z0-9_-]+', '-', 'g')
$$;

CREATE OR REPLACE FUNCTION pg_temp.v7_segment(selector text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN selector IS NULL OR selector = '' THEN ''
                ELSE '.' || pg_catalog.regexp_replace(pg_catalog.lower(selector COLLATE "C"), '[^a-z0-9_-]', '-', 'g')
           END
$$;

DO $$
DECLARE
    names text := 'SELECT NULL::uuid AS domain_id, NULL::uuid AS organization_id, NULL::text AS old_name, '
                  'NULL::text AS new_name WHERE false';
    alive text := (SELECT CASE version WHEN 7 THEN 'true' ELSE 'false' END FROM pg_temp.v7_version);
    item record;
    parts text[] := '{}';
BEGIN
    IF to_regclass('mandate_conductor.migration_008_domain_names') IS NOT NULL THEN
        names := 'SELECT (to_jsonb(n) ->> ''domain_id'')::uuid AS domain_id, organization_id, old_name, new_name '
                 'FROM mandate_conductor.migration_008_domain_names n';
    END IF;
    EXECUTE 'CREATE TEMP VIEW v7_domain_names AS ' || names;
    -- How the conductor's engine stands, if it ever worked here.
    IF to_regclass('mandate_conductor.rekeys') IS NULL THEN
        CREATE TEMP VIEW v7_engine AS SELECT NULL::text AS status WHERE false;
    ELSE
        EXECUTE 'CREATE TEMP VIEW v7_engine AS SELECT status FROM mandate_conductor.rekeys '
                'WHERE name = ''008'' ORDER BY id DESC LIMIT 1';
    END IF;
    EXECUTE format('CREATE TEMP VIEW v7_raw_domains AS SELECT %s, t.organization_id, %s, %s FROM mandate.domains t WHERE %s',
                   pg_temp.v7_column('domains', 'domain_id', 'uuid'), pg_temp.v7_column('domains', 'name', 'text'),
                   pg_temp.v7_column('domains', 'domain', 'text'), alive);
    EXECUTE format('CREATE TEMP VIEW v7_raw_scopes AS SELECT %s, %s, %s, %s, %s, %s, %s, %s FROM mandate.scopes t WHERE %s',
                   pg_temp.v7_column('scopes', 'scope_id', 'uuid'), pg_temp.v7_column('scopes', 'organization_id', 'uuid'),
                   pg_temp.v7_column('scopes', 'domain_id', 'uuid'), pg_temp.v7_column('scopes', 'environment', 'text'),
                   pg_temp.v7_column('scopes', 'service', 'text'), pg_temp.v7_column('scopes', 'agent', 'text'),
                   pg_temp.v7_column('scopes', 'scope_system', 'text'), pg_temp.v7_column('scopes', 'tenant', 'text'),
                   alive);
    EXECUTE format('CREATE TEMP VIEW v7_raw_policies AS SELECT t.snapshot_id, t.organization_id, %s, t.policies '
                   'FROM mandate.policy_snapshots t WHERE %s', pg_temp.v7_column('policy_snapshots', 'domain_id', 'uuid'),
                   alive);
    IF to_regclass('mandate.mandate_specs') IS NULL THEN
        CREATE TEMP VIEW v7_specs AS SELECT NULL::text AS spec_id, NULL::uuid AS organization_id, NULL::text AS domain
        WHERE false;
    ELSE
        EXECUTE format('CREATE TEMP VIEW v7_specs AS SELECT spec_id || '' v'' || version AS spec_id, organization_id, domain '
                       'FROM mandate.mandate_specs WHERE %s', alive);
    END IF;
    FOR item IN SELECT table_name AS tab, key_column FROM pg_temp.v7_tables ORDER BY n LOOP
        EXECUTE format('CREATE TEMP VIEW v7_%1$s AS SELECT %2$L::text AS table_name, t.%3$I::text AS row_key, '
                       '%4$s, %5$s, %6$s, %7$s, %8$s, %9$s FROM mandate.%2$I t WHERE %10$s',
                       item.tab, item.tab, item.key_column,
                       pg_temp.v7_column(item.tab, 'organization_id', 'uuid'),
                       pg_temp.v7_column(item.tab, 'domain_id', 'uuid'), pg_temp.v7_column(item.tab, 'domain', 'text'),
                       CASE item.tab WHEN 'scopes' THEN 'NULL::uuid AS scope_id'
                                     ELSE pg_temp.v7_column(item.tab, 'scope_id', 'uuid') END,
                       pg_temp.v7_column(item.tab, 'decision_id', 'uuid'),
                       pg_temp.v7_column(item.tab, 'snapshot_id', 'uuid'), alive);
        parts := parts || format('SELECT r.*, %s FROM pg_temp.v7_%s r %s',
            CASE WHEN item.tab IN ('verdict_events', 'audit_timeline_entries')
                 THEN 'd.row_key IS NULL AS decision_orphan, d.organization_id AS decision_organization_id, '
                      'd.domain_id AS decision_domain_id'
                 ELSE 'false AS decision_orphan, NULL::uuid AS decision_organization_id, NULL::uuid AS decision_domain_id'
            END
            || CASE item.tab WHEN 'verdict_events'
                 THEN ', p.row_key IS NULL AS snapshot_orphan, p.domain_id AS snapshot_domain_id'
                 ELSE ', false AS snapshot_orphan, NULL::uuid AS snapshot_domain_id' END,
            item.tab,
            CASE WHEN item.tab IN ('verdict_events', 'audit_timeline_entries')
                 THEN 'LEFT JOIN pg_temp.v7_decision_events d ON d.decision_id = r.decision_id ' ELSE '' END
            || CASE item.tab WHEN 'verdict_events'
                 THEN 'LEFT JOIN pg_temp.v7_policy_snapshots p ON p.snapshot_id = r.snapshot_id' ELSE '' END);
    END LOOP;
    EXECUTE 'CREATE TEMP VIEW v7_rows AS ' || array_to_string(parts, ' UNION ALL ');
END
$$;

-- A table, because every policy looks a domain up.
CREATE TEMP TABLE v7_domains AS
SELECT d.*, pg_temp.v7_hex(d.domain_id::text) AS hex,
       COALESCE((SELECT m.new_name FROM pg_temp.v7_domain_names m
                 WHERE m.old_name = d.name AND (m.organization_id IS NULL OR m.organization_id = d.organization_id)
                   AND (m.domain_id IS NULL OR m.domain_id = d.domain_id)
                 ORDER BY m.domain_id NULLS LAST, m.organization_id NULLS LAST, m.new_name COLLATE "C" LIMIT 1),
                d.name) AS new_name
FROM pg_temp.v7_raw_domains d;
ANALYZE pg_temp.v7_domains;

-- Every scope with the readable id that the migration will give it.
CREATE TEMP VIEW v7_new_scopes AS
WITH base AS (
    SELECT s.scope_id, s.organization_id, s.domain_id, d.new_name AS domain, pg_temp.v7_hex(s.scope_id::text) AS hex,
           pg_temp.v7_segment(s.environment) || pg_temp.v7_segment(s.service) || pg_temp.v7_segment(s.agent)
           || pg_temp.v7_segment(s.scope_system) || pg_temp.v7_segment(s.tenant) AS path
    FROM pg_temp.v7_raw_scopes s LEFT JOIN pg_temp.v7_domains d USING (domain_id)
), readable AS (
    SELECT *, domain || CASE path WHEN '' THEN '.default' ELSE path END AS id FROM base
), suffixed AS (
    SELECT *, id IS NOT NULL AND count(*) OVER (PARTITION BY id) > 1 AS shared,
           CASE WHEN count(*) OVER (PARTITION BY id) > 1 THEN id || '-' || left(hex, 8) ELSE id END AS short_id
    FROM readable
)
SELECT scope_id, organization_id, domain_id, domain, hex, id AS readable_id, shared,
       CASE WHEN shared AND count(*) OVER (PARTITION BY short_id) > 1 THEN id || '-' || hex ELSE short_id END
           AS new_scope_id
FROM suffixed;

CREATE TEMP VIEW v7_policies AS
SELECT p.snapshot_id, p.organization_id, p.domain_id, e.ordinality AS place, e.value ->> 'id' AS policy_id,
       e.value ->> 'scope_id' AS scope_key, e.value ->> 'domain_id' AS domain_key, e.value ->> 'domain' AS domain_name,
       s.scope_id IS NOT NULL AS scope_known, by_id.domain_id IS NOT NULL AS domain_key_known,
       by_name.domain_id IS NOT NULL AS domain_name_known,
       by_id.domain_id IS NOT NULL AND by_name.domain_id IS NOT NULL AND by_id.domain_id <> by_name.domain_id
           AS domain_contradicts
FROM pg_temp.v7_raw_policies p
CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(p.policies) WHEN 'array' THEN p.policies ELSE '[]' END)
    WITH ORDINALITY e
LEFT JOIN pg_temp.v7_raw_scopes s ON pg_temp.v7_hex(s.scope_id::text) = pg_temp.v7_hex(e.value ->> 'scope_id')
LEFT JOIN pg_temp.v7_domains by_id ON by_id.hex = pg_temp.v7_hex(e.value ->> 'domain_id')
LEFT JOIN LATERAL (
    SELECT d.* FROM pg_temp.v7_domains d
    WHERE d.organization_id = p.organization_id AND e.value ->> 'domain' IN (d.name, d.new_name)
    ORDER BY d.domain_id IS DISTINCT FROM by_id.domain_id, d.name <> e.value ->> 'domain', d.name <> d.new_name,
             d.domain_id LIMIT 1
) by_name ON true;

-- One pass over each table: equal attributions are counted together, and every check below judges those few rows.
CREATE TEMP TABLE v7_profile AS
SELECT table_name, NULL::text AS row_key, organization_id, domain_id, domain, scope_id, decision_orphan,
       decision_organization_id, decision_domain_id, snapshot_orphan, snapshot_domain_id, count(*) AS n
FROM pg_temp.v7_rows
GROUP BY 1, 3, 4, 5, 6, 7, 8, 9, 10, 11;
ANALYZE pg_temp.v7_profile;

-- The same judgement over the profile (to count) and over the rows (to show).
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT * FROM (VALUES ('v7_judged_profile', 'v7_profile', 'r.n'), ('v7_judged_rows', 'v7_rows', '1::bigint'))
                AS x (name, source, n) LOOP
        EXECUTE format($sql$
            CREATE TEMP VIEW %1$I AS
            SELECT r.table_name, r.row_key, r.organization_id, r.domain_id, r.domain, r.scope_id, %3$s AS n,
                   d.name AS domain_name, d.organization_id AS domain_organization_id,
                   s.domain_id AS scope_domain_id, r.decision_organization_id, r.decision_domain_id,
                   r.snapshot_domain_id, r.decision_orphan, r.snapshot_orphan,
                   r.domain_id IS NULL AS domain_id_null,
                   r.organization_id IS NULL AS organization_id_null,
                   r.domain_id IS NOT NULL AND d.domain_id IS NULL AS orphan_domain,
                   r.organization_id IS NOT NULL AND o.organization_id IS NULL AS orphan_organization,
                   r.scope_id IS NOT NULL AND s.scope_id IS NULL AS orphan_scope,
                   COALESCE(r.organization_id <> d.organization_id, false) AS organization_mismatch,
                   COALESCE(r.domain NOT IN ('', d.name, d.new_name), false) AS domain_text_contradiction,
                   COALESCE(s.domain_id <> r.domain_id, false) AS scope_domain_mismatch,
                   COALESCE(r.decision_organization_id <> r.organization_id, false)
                       OR COALESCE(r.decision_domain_id <> r.domain_id, false) AS decision_disagrees,
                   COALESCE(r.snapshot_domain_id <> r.domain_id, false) AS snapshot_disagrees
            FROM pg_temp.%2$I r
            LEFT JOIN pg_temp.v7_domains d ON d.domain_id = r.domain_id
            LEFT JOIN mandate.organizations o ON o.organization_id = r.organization_id
            LEFT JOIN pg_temp.v7_raw_scopes s ON s.scope_id = r.scope_id $sql$, item.name, item.source, item.n);
    END LOOP;
END
$$;

CREATE TEMP TABLE v7_counts AS
SELECT t.n, t.table_name,
       COALESCE(sum(j.n) FILTER (WHERE domain_id_null), 0)::bigint AS domain_id_null,
       COALESCE(sum(j.n) FILTER (WHERE organization_id_null), 0)::bigint AS organization_id_null,
       COALESCE(sum(j.n) FILTER (WHERE orphan_domain), 0)::bigint AS orphan_domain,
       COALESCE(sum(j.n) FILTER (WHERE orphan_organization), 0)::bigint AS orphan_organization,
       COALESCE(sum(j.n) FILTER (WHERE orphan_scope), 0)::bigint AS orphan_scope,
       COALESCE(sum(j.n) FILTER (WHERE decision_orphan), 0)::bigint AS orphan_decision,
       COALESCE(sum(j.n) FILTER (WHERE snapshot_orphan), 0)::bigint AS orphan_snapshot,
       COALESCE(sum(j.n) FILTER (WHERE organization_mismatch), 0)::bigint AS organization_mismatch,
       COALESCE(sum(j.n) FILTER (WHERE domain_text_contradiction), 0)::bigint AS domain_text_contradiction,
       COALESCE(sum(j.n) FILTER (WHERE scope_domain_mismatch), 0)::bigint AS scope_domain_mismatch,
       COALESCE(sum(j.n) FILTER (WHERE decision_disagrees), 0)::bigint AS decision_disagrees,
       COALESCE(sum(j.n) FILTER (WHERE snapshot_disagrees), 0)::bigint AS snapshot_disagrees
FROM pg_temp.v7_tables t LEFT JOIN pg_temp.v7_judged_profile j USING (table_name)
GROUP BY t.n, t.table_name;

-- The offending rows of each check -----------------------------------------------------------------------------------

CREATE TEMP VIEW bad_domain_id_null AS
SELECT table_name, row_key, organization_id, domain FROM pg_temp.v7_judged_rows WHERE domain_id_null;

CREATE TEMP VIEW bad_domain_name_null AS
SELECT 'domains' AS table_name, domain_id::text AS row_key, organization_id FROM pg_temp.v7_raw_domains WHERE name IS NULL;

CREATE TEMP VIEW bad_organization_id_null AS
SELECT table_name, row_key, domain_id, domain_name FROM pg_temp.v7_judged_rows WHERE organization_id_null;

CREATE TEMP VIEW bad_domain_name_not_slug AS
SELECT 'domains' AS table_name, domain_id::text AS row_key, organization_id, name, new_name AS becomes
FROM pg_temp.v7_domains WHERE new_name !~ '^[a-z0-9_-]+$';

CREATE TEMP VIEW bad_domain_name_duplicate AS
SELECT 'domains' AS table_name, domain_id::text AS row_key, organization_id, name, new_name AS becomes
FROM (SELECT *, count(*) OVER (PARTITION BY organization_id, name, new_name) AS same FROM pg_temp.v7_domains) d
WHERE same > 1;

-- Names that differ now and would not after slugging or renaming.
CREATE TEMP VIEW bad_domain_name_collision AS
SELECT 'domains' AS table_name, d.domain_id::text AS row_key, d.organization_id, d.name,
       pg_temp.v7_slug(d.new_name) AS becomes
FROM pg_temp.v7_domains d
WHERE EXISTS (SELECT FROM pg_temp.v7_domains o
              WHERE o.organization_id = d.organization_id AND o.name <> d.name
                AND pg_temp.v7_slug(o.new_name) = pg_temp.v7_slug(d.new_name));

CREATE TEMP VIEW bad_domain_mapping_ambiguous AS
SELECT 'mandate_conductor.migration_008_domain_names' AS table_name, old_name AS row_key, organization_id, domain_id,
       string_agg(DISTINCT new_name, ', ' ORDER BY new_name) AS new_names
FROM pg_temp.v7_domain_names
GROUP BY old_name, organization_id, domain_id HAVING count(DISTINCT new_name) > 1;

CREATE TEMP VIEW bad_orphan_domain AS
SELECT table_name, row_key, organization_id, domain_id, domain FROM pg_temp.v7_judged_rows WHERE orphan_domain;

CREATE TEMP VIEW bad_orphan_organization AS
SELECT table_name, row_key, organization_id FROM pg_temp.v7_judged_rows WHERE orphan_organization
UNION ALL
SELECT 'domains', d.domain_id::text, d.organization_id FROM pg_temp.v7_raw_domains d
WHERE NOT EXISTS (SELECT FROM mandate.organizations o WHERE o.organization_id = d.organization_id);

CREATE TEMP VIEW bad_orphan_scope AS
SELECT table_name, row_key, organization_id, domain_id, scope_id FROM pg_temp.v7_judged_rows WHERE orphan_scope;

CREATE TEMP VIEW bad_orphan_decision AS
SELECT table_name, row_key, decision_id FROM pg_temp.v7_rows WHERE decision_orphan;

CREATE TEMP VIEW bad_orphan_snapshot AS
SELECT table_name, row_key, snapshot_id FROM pg_temp.v7_rows WHERE snapshot_orphan;

CREATE TEMP VIEW bad_organization_mismatch AS
SELECT table_name, row_key, organization_id, domain_id, domain_name, domain_organization_id
FROM pg_temp.v7_judged_rows WHERE organization_mismatch;

CREATE TEMP VIEW bad_domain_text_contradiction AS
SELECT table_name, row_key, domain, domain_name AS name_of_domain_id, domain_id
FROM pg_temp.v7_judged_rows WHERE domain_text_contradiction
UNION ALL
SELECT 'domains', domain_id::text, domain, name, domain_id FROM pg_temp.v7_domains
WHERE domain NOT IN ('', name, new_name);

CREATE TEMP VIEW bad_spec_domain_unknown AS
SELECT 'mandate_specs' AS table_name, s.spec_id AS row_key, s.organization_id, s.domain FROM pg_temp.v7_specs s
WHERE NOT EXISTS (SELECT FROM pg_temp.v7_domains d
                  WHERE d.organization_id = s.organization_id AND s.domain IN (d.name, d.new_name));

CREATE TEMP VIEW bad_scope_domain_mismatch AS
SELECT table_name, row_key, scope_id, domain_id, scope_domain_id FROM pg_temp.v7_judged_rows WHERE scope_domain_mismatch;

-- A B-tree key ends at 2704 bytes; the readable id is a primary key.
CREATE TEMP VIEW bad_scope_id_unusable AS
SELECT 'scopes' AS table_name, scope_id::text AS row_key, left(new_scope_id, 100) AS new_scope_id,
       octet_length(new_scope_id) AS bytes
FROM (SELECT *, count(*) OVER (PARTITION BY new_scope_id) AS same FROM pg_temp.v7_new_scopes
      WHERE new_scope_id IS NOT NULL) s
WHERE same > 1 OR octet_length(new_scope_id) > 2600;

CREATE TEMP VIEW bad_scope_id_shared AS
SELECT 'scopes' AS table_name, scope_id::text AS row_key, readable_id, new_scope_id
FROM pg_temp.v7_new_scopes WHERE shared;

CREATE TEMP VIEW bad_attribution_disagreement AS
SELECT table_name, row_key, organization_id, domain_id, decision_organization_id, decision_domain_id, snapshot_domain_id
FROM pg_temp.v7_judged_rows WHERE decision_disagrees OR snapshot_disagrees;

CREATE TEMP VIEW bad_policy_scope_unknown AS
SELECT 'policy_snapshots' AS table_name, snapshot_id::text AS row_key, place, policy_id, scope_key
FROM pg_temp.v7_policies WHERE scope_key IS NOT NULL AND NOT scope_known;

CREATE TEMP VIEW bad_policy_domain_unknown AS
SELECT 'policy_snapshots' AS table_name, snapshot_id::text AS row_key, place, policy_id, domain_key, domain_name,
       CASE WHEN domain_contradicts THEN 'domain_id and domain contradict each other'
            ELSE 'not in domains' END AS problem
FROM pg_temp.v7_policies
WHERE domain_key IS NOT NULL AND NOT domain_key_known OR domain_name IS NOT NULL AND NOT domain_name_known
   OR domain_contradicts;

-- Columns that go away or change their type. domains.name is only renamed: what depends on it follows.
CREATE TEMP VIEW v7_going AS
SELECT c.* FROM pg_temp.v7_columns c
WHERE (SELECT version FROM pg_temp.v7_version) = 7
  AND (c.table_name = 'domains' OR c.table_name IN (SELECT table_name FROM pg_temp.v7_tables))
  AND (c.column_name IN ('domain_id', 'domain')
       OR c.column_name = 'scope_id' AND c.table_name IN ('scopes', 'verdict_events'));

CREATE TEMP VIEW bad_dependent_objects AS
WITH going AS (
    SELECT * FROM pg_temp.v7_going
), ours AS (
    SELECT DISTINCT attrelid AS oid, table_name FROM going
), by_dependency AS (
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) AS object, g.table_name, g.column_name
    FROM pg_depend d JOIN going g ON d.refclassid = 'pg_class'::regclass AND d.refobjid = g.attrelid
                                 AND d.refobjsubid = g.attnum
    -- not the views of this file, nor those that a session killed in the middle of it has left behind: the
    -- migration drops them
    WHERE NOT EXISTS (SELECT FROM pg_rewrite w JOIN pg_class v ON v.oid = w.ev_class
                      JOIN pg_namespace n ON n.oid = v.relnamespace
                      WHERE w.oid = d.objid AND (v.relnamespace = pg_my_temp_schema()
                                                 OR n.nspname ~ '^pg_temp_' AND v.relname ~ '^(v7|v8|bad)_'))
      AND (d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass, 'pg_proc'::regclass,
                        'pg_publication_rel'::regclass)
       OR d.classid = 'pg_attrdef'::regclass AND NOT EXISTS (
              SELECT FROM pg_attrdef f WHERE f.oid = d.objid AND f.adrelid = g.attrelid AND f.adnum = g.attnum)
       -- a generated column's own dependency is recorded on the column itself before PostgreSQL 15
       OR d.classid = 'pg_class'::regclass AND d.objsubid > 0 AND EXISTS (
              SELECT FROM pg_attribute a WHERE a.attrelid = d.objid AND a.attnum = d.objsubid AND a.attgenerated <> ''))
), foreign_keys AS (
    SELECT format('constraint %I on table %s', c.conname, c.conrelid::regclass), g.table_name, g.column_name
    FROM pg_constraint c JOIN going g ON g.attrelid = c.confrelid AND g.attnum = ANY (c.confkey)
    WHERE c.contype = 'f' AND c.conparentid = 0 AND NOT EXISTS (
        SELECT FROM going k WHERE k.attrelid = c.conrelid AND c.conkey = ARRAY[k.attnum])
    UNION ALL
    -- the unique key over organization and name gives way to the primary key
    SELECT format('constraint %I on table %s', f.conname, f.conrelid::regclass), 'domains', 'name'
    FROM pg_constraint f JOIN pg_constraint u ON u.conindid = f.conindid AND u.contype = 'u'
    JOIN ours o ON o.oid = u.conrelid AND o.table_name = 'domains'
    WHERE f.contype = 'f' AND f.confrelid = o.oid
), own_constraints AS (
    SELECT format('constraint %I on table %s', c.conname, c.conrelid::regclass), g.table_name, g.column_name
    FROM pg_constraint c JOIN going g ON g.attrelid = c.conrelid AND g.attnum = ANY (c.conkey)
    WHERE c.contype IN ('u', 'x', 'p') AND g.column_name = 'domain'
       OR c.contype IN ('c', 'x') AND pg_get_constraintdef(c.oid) ~ '::uuid'
       OR c.contype IN ('u', 'x') AND g.table_name = 'domains' AND g.column_name = 'domain_id'
    UNION ALL
    SELECT format('index %s', i.indexrelid::regclass), g.table_name, g.column_name
    FROM pg_index i JOIN going g ON g.attrelid = i.indrelid
    WHERE COALESCE(pg_get_expr(i.indpred, i.indrelid), '') || COALESCE(pg_get_expr(i.indexprs, i.indrelid), '')
          ~ ('\m' || g.column_name || '\M.*::uuid')
       OR g.table_name = 'domains' AND g.column_name = 'domain_id' AND g.attnum = ANY (i.indkey::int2[])
          AND (i.indnatts > 1 OR NOT i.indisprimary AND NOT EXISTS (
               SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid))
), row_types AS (
    SELECT format('column %I of table %s', a.attname, a.attrelid::regclass), o.table_name, '(row type)'
    FROM ours o JOIN pg_class c ON c.oid = o.oid JOIN pg_type t ON t.oid = c.reltype
    JOIN pg_attribute a ON a.atttypid IN (t.oid, t.typarray) AND a.attnum > 0 AND NOT a.attisdropped
), other_tables AS (
    -- An extra table's own column of that name: nothing called domain_id may be left in the schema.
    SELECT format('table mandate.%I', c.table_name), c.table_name, c.column_name FROM pg_temp.v7_columns c
    WHERE c.column_name = 'domain_id' AND (SELECT version FROM pg_temp.v7_version) = 7
      AND c.attrelid NOT IN (SELECT oid FROM ours)
), function_texts AS (
    -- A function's text is not tracked by PostgreSQL: one of ours that speaks of domain_id, or a trigger's on our tables.
    SELECT 'function ' || p.oid::regprocedure, '(text)', 'domain_id'
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'mandate_conductor') AND n.nspname !~ '^pg_(temp|toast)'
      AND n.nspname NOT IN ('mandate_new_008', 'mandate_pre_008', 'mandate_rekey_008')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass
                                                AND d.deptype = 'e')
      AND (SELECT version FROM pg_temp.v7_version) = 7
      AND p.prosrc ~ '\mdomain_id\M'
      AND (p.prosrc ~ ('\m(' || (SELECT string_agg(table_name, '|') FROM ours) || ')\M')
           OR EXISTS (SELECT FROM pg_trigger t JOIN ours o ON o.oid = t.tgrelid WHERE t.tgfoid = p.oid))
)
SELECT object, table_name, column_name FROM by_dependency
UNION SELECT * FROM foreign_keys UNION SELECT * FROM own_constraints UNION SELECT * FROM row_types
UNION SELECT * FROM other_tables UNION SELECT * FROM function_texts;

CREATE TEMP VIEW bad_inheritance AS
SELECT 'table ' || i.inhrelid::regclass AS object, 'inherits from or is a partition of ' || i.inhparent::regclass AS problem
FROM pg_inherits i
JOIN pg_class c ON c.oid IN (i.inhrelid, i.inhparent)
WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p')
  AND (c.relname = 'domains' OR c.relname IN (SELECT table_name FROM pg_temp.v7_tables));

CREATE TEMP VIEW bad_publications AS
SELECT 'publication ' || quote_ident(pubname::text) AS object, tablename::text AS table_name FROM pg_publication_tables
WHERE schemaname = 'mandate' AND (tablename = 'domains' OR tablename IN (SELECT table_name FROM pg_temp.v7_tables));

CREATE TEMP VIEW bad_replication_slots AS
SELECT 'slot ' || quote_ident(slot_name::text) AS object, plugin::text, active FROM pg_replication_slots
WHERE slot_type = 'logical' AND database = current_database();

-- How long is long: PGOPTIONS='-c mandate.long_transaction=5s'.
CREATE TEMP VIEW bad_long_transactions AS
SELECT 'pid ' || pid AS object, usename::text, application_name, state, clock_timestamp() - xact_start AS age,
       left(query, 60) AS query
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND xact_start < clock_timestamp()
                   - COALESCE(NULLIF(current_setting('mandate.long_transaction', true), ''), '1 minute')::interval;

CREATE TEMP VIEW bad_prepared_transactions AS
SELECT 'prepared transaction ' || quote_literal(gid) AS object, owner::text, prepared FROM pg_prepared_xacts
WHERE database = current_database();

CREATE TEMP VIEW bad_leftovers AS
SELECT pg_describe_object('pg_class'::regclass, c.oid, 0) AS object, 'belongs to version 8' AS problem
FROM pg_class c
WHERE (SELECT version FROM pg_temp.v7_version) = 7 AND c.relnamespace = 'mandate'::regnamespace
  AND (c.relname IN ('identity_map', 'migration_log', 'idx_verdict_events_scope_id_text', 'idx_scopes_selectors')
       OR c.relname ~ '^idx_(scopes|policy_snapshots|decision_events|verdict_events|audit_timeline)_organization_domain$'
          AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid
                                                                     AND a.attnum = d.refobjsubid
                          WHERE d.objid = c.oid AND a.attname = 'domain'))
UNION ALL
SELECT pg_describe_object('pg_proc'::regclass, p.oid, 0), 'belongs to version 8' FROM pg_proc p
WHERE (SELECT version FROM pg_temp.v7_version) = 7 AND p.pronamespace = 'mandate'::regnamespace
  AND p.proname = 'validate_scope_id_domain_prefix'
UNION ALL
SELECT pg_describe_object('pg_trigger'::regclass, t.oid, 0), 'belongs to version 8' FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid AND c.relnamespace = 'mandate'::regnamespace
WHERE (SELECT version FROM pg_temp.v7_version) = 7 AND t.tgname = 'validate_scopes_scope_id_domain_prefix'
UNION ALL
SELECT 'schema ' || n.nspname,
       CASE (SELECT status FROM pg_temp.v7_engine)
           WHEN 'running' THEN 'of a run of the engine: mandate run 008 goes on with it, mandate abort 008 drops it'
           WHEN 'rolled back' THEN 'of a rollback that has not ended: mandate rollback 008 ends it'
           ELSE 'built by a run that is over or unknown: mandate abort 008' END
FROM pg_namespace n
WHERE (SELECT version FROM pg_temp.v7_version) = 7
  AND n.nspname IN ('mandate_new_008', 'mandate_pre_008', 'mandate_rekey_008')
  -- The conductor sets it where the engine is to migrate: what the engine goes on with is no leftover then.
  AND NOT (COALESCE(current_setting('mandate.by_engine', true), '') = 'on'
           AND EXISTS (SELECT FROM pg_temp.v7_engine WHERE status IN ('running', 'rolled back')))
UNION ALL
SELECT format('column mandate.%s.%s', w.table_name, w.column_name),
       COALESCE('is ' || c.data_type || ', version 7 has ' || w.data_type, 'is missing')
FROM (SELECT table_name, 'domain_id' AS column_name, 'uuid' AS data_type FROM pg_temp.v7_tables
      UNION ALL SELECT table_name, 'organization_id', 'uuid' FROM pg_temp.v7_tables
      UNION ALL VALUES ('domains', 'domain_id', 'uuid'), ('domains', 'name', 'text'), ('scopes', 'scope_id', 'uuid'),
                       ('verdict_events', 'scope_id', 'uuid'), ('mandate_specs', 'domain', 'text')) w
LEFT JOIN pg_temp.v7_columns c USING (table_name, column_name)
WHERE (SELECT version FROM pg_temp.v7_version) = 7 AND c.data_type IS DISTINCT FROM w.data_type;

CREATE TEMP VIEW bad_mutation_triggers_off AS
SELECT format('trigger %I on table %s', t.tgname, t.tgrelid::regclass) AS object, c.relname AS table_name
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'mandate'::regnamespace AND t.tgname ~ '^prevent_.*_(mutation|truncate)$' AND t.tgenabled = 'D';

CREATE TEMP VIEW bad_privileges AS
SELECT 'table ' || c.oid::regclass AS object, 'belongs to ' || c.relowner::regrole || ', not to ' || current_user AS problem
FROM pg_class c
WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p')
  AND (c.relname IN ('organizations', 'domains', 'mandate_specs')
       OR c.relname IN (SELECT table_name FROM pg_temp.v7_tables))
  AND NOT pg_has_role(c.relowner, 'USAGE')
UNION ALL
SELECT 'schema mandate', current_user || ' may not create in it'
WHERE NOT has_schema_privilege('mandate', 'CREATE');

-- The checks ---------------------------------------------------------------------------------------------------------

\echo '=== CHECK 1: Domain Data Availability ==='

-- check: domain_row_count expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_row_count', 'any', 'domains table row count', count(*) FROM mandate.domains
RETURNING check_name, result::bigint;

-- check: domain_id_null expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_id_null', 'zero', 'domain_id NULL count', sum(domain_id_null)::bigint FROM pg_temp.v7_counts
RETURNING check_name, result::bigint;

-- check: domain_name_null expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_name_null', 'zero', 'name (future domain) NULL count', count(*) FROM pg_temp.bad_domain_name_null
RETURNING check_name, result::bigint;

-- check: organization_id_null expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'organization_id_null', 'zero', 'organization_id NULL count', sum(organization_id_null)::bigint
FROM pg_temp.v7_counts
RETURNING check_name, result::bigint;

-- check: domain_name_not_slug expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_name_not_slug', 'zero', 'domain names that are not slugs', count(*) FROM pg_temp.bad_domain_name_not_slug
RETURNING check_name, result::bigint;

-- check: domain_name_duplicate expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_name_duplicate', 'zero', 'domains that share a name in an organization', count(*)
FROM pg_temp.bad_domain_name_duplicate
RETURNING check_name, result::bigint;

-- check: domain_name_collision expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_name_collision', 'zero', 'domain names that become equal when slugged', count(*)
FROM pg_temp.bad_domain_name_collision
RETURNING check_name, result::bigint;

-- check: domain_mapping_ambiguous expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_mapping_ambiguous', 'zero', 'old names mapped to several new names', count(*)
FROM pg_temp.bad_domain_mapping_ambiguous
RETURNING check_name, result::bigint;

\echo ''
\echo '=== CHECK 2: Orphaned Foreign Keys ==='

-- check: orphan_domain expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'orphan_domain', 'zero', table_name || '.domain_id -> domains.domain_id orphans', orphan_domain
FROM pg_temp.v7_counts ORDER BY n
RETURNING check_name, result::bigint;

-- check: orphan_organization expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'orphan_organization', 'zero', table_name || '.organization_id -> organizations.organization_id orphans', result
FROM (SELECT 0 AS n, 'domains' AS table_name, count(*) AS result FROM pg_temp.bad_orphan_organization
      WHERE table_name = 'domains'
      UNION ALL SELECT n, table_name, orphan_organization FROM pg_temp.v7_counts) x ORDER BY n
RETURNING check_name, result::bigint;

-- check: orphan_scope expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'orphan_scope', 'zero', 'verdict_events.scope_id -> scopes.scope_id orphans', orphan_scope
FROM pg_temp.v7_counts WHERE table_name = 'verdict_events'
RETURNING check_name, result::bigint;

-- check: orphan_decision expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'orphan_decision', 'zero', table_name || '.decision_id -> decision_events.decision_id orphans', orphan_decision
FROM pg_temp.v7_counts WHERE table_name IN ('verdict_events', 'audit_timeline_entries') ORDER BY n
RETURNING check_name, result::bigint;

-- check: orphan_snapshot expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'orphan_snapshot', 'zero', 'verdict_events.snapshot_id -> policy_snapshots.snapshot_id orphans', orphan_snapshot
FROM pg_temp.v7_counts WHERE table_name = 'verdict_events'
RETURNING check_name, result::bigint;

\echo ''
\echo '=== CHECK 3: Organization Consistency ==='

-- check: organization_mismatch expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'organization_mismatch', 'zero', table_name || ' rows whose organization is not that of their domain',
       organization_mismatch
FROM pg_temp.v7_counts ORDER BY n
RETURNING check_name, result::bigint;

\echo ''
\echo '=== CHECK 4: Domain Text Consistency ==='

-- check: domain_text_contradiction expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'domain_text_contradiction', 'zero', table_name || '.domain contradicts domain_id', result
FROM (SELECT 0 AS n, 'domains' AS table_name, count(*) AS result FROM pg_temp.v7_domains
      WHERE domain NOT IN ('', name, new_name)
      UNION ALL SELECT n, table_name, domain_text_contradiction FROM pg_temp.v7_counts) x ORDER BY n
RETURNING check_name, result::bigint;

-- Information: such a spec governs nothing today either, because specs are found by the domain's name.
-- check: spec_domain_unknown expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'spec_domain_unknown', 'any', 'mandate_specs of a domain that does not exist (information)', count(*)
FROM pg_temp.bad_spec_domain_unknown
RETURNING check_name, result::bigint;

\echo ''
\echo '=== CHECK 5: Scope Consistency ==='

-- check: scope_domain_mismatch expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'scope_domain_mismatch', 'zero', 'verdict_events whose scope belongs to another domain', scope_domain_mismatch
FROM pg_temp.v7_counts WHERE table_name = 'verdict_events'
RETURNING check_name, result::bigint;

-- check: scope_id_unusable expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'scope_id_unusable', 'zero', 'scopes whose readable id is not unique or too long', count(*)
FROM pg_temp.bad_scope_id_unusable
RETURNING check_name, result::bigint;

-- check: scope_id_shared expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'scope_id_shared', 'any', 'scopes that need a UUID suffix (information)', count(*) FROM pg_temp.bad_scope_id_shared
RETURNING check_name, result::bigint;

-- Information, not a failure: 008 carries each row's own domain over as it is and loses nothing by it, and which of the
-- two is wrong cannot be known from the data. Migration 009, whose keys join them, has to have it settled.
-- check: attribution_disagreement expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'attribution_disagreement', 'any', check_name, result FROM (
    SELECT n, table_name || ' attributed otherwise than their decision (information)' AS check_name,
           decision_disagrees AS result
    FROM pg_temp.v7_counts WHERE table_name IN ('verdict_events', 'audit_timeline_entries')
    UNION ALL
    SELECT 9, 'verdict_events attributed otherwise than their snapshot (information)', snapshot_disagrees
    FROM pg_temp.v7_counts WHERE table_name = 'verdict_events') x ORDER BY n
RETURNING check_name, result::bigint;

\echo ''
\echo '=== CHECK 6: Keys in JSON ==='

-- check: policy_scope_unknown expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'policy_scope_unknown', 'zero', 'policies whose scope_id is not in scopes', count(*)
FROM pg_temp.bad_policy_scope_unknown
RETURNING check_name, result::bigint;

-- check: policy_domain_unknown expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'policy_domain_unknown', 'zero', 'policies whose domain is not in domains', count(*)
FROM pg_temp.bad_policy_domain_unknown
RETURNING check_name, result::bigint;

-- Information: operational keys will be rewritten, evidence stays as recorded and resolves through identity_map.
-- check: policy_keys expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'policy_keys', 'any', 'policies with a scope_id, domain_id or domain to rewrite (information)',
       count(*) FILTER (WHERE scope_key IS NOT NULL OR domain_key IS NOT NULL OR domain_name IS NOT NULL)
FROM pg_temp.v7_policies
RETURNING check_name, result::bigint;

-- check: evidence_keys expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'evidence_keys', 'any', x.label || ' with a domain_id or scope_id (information)', x.rows
FROM (SELECT count(*) FILTER (WHERE context ?| ARRAY['domain_id', 'scope_id']) AS context,
             count(*) FILTER (WHERE scope ?| ARRAY['domain_id', 'scope_id']) AS scope FROM mandate.decision_events) d
CROSS JOIN (SELECT count(*) FILTER (WHERE details ?| ARRAY['domain_id', 'scope_id']) AS details
            FROM mandate.audit_timeline_entries) t
CROSS JOIN LATERAL (VALUES (1, 'decision_events.context', d.context), (2, 'decision_events.scope', d.scope),
                           (3, 'audit_timeline_entries.details', t.details)) x (n, label, rows)
ORDER BY x.n
RETURNING check_name, result::bigint;

\echo ''
\echo '=== CHECK 7: Database Objects and Environment ==='

-- check: dependent_objects expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'dependent_objects', 'zero', 'objects that mention a column which goes away', count(DISTINCT object)
FROM pg_temp.bad_dependent_objects
RETURNING check_name, result::bigint;

-- check: inheritance expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'inheritance', 'zero', 'inheritance children and partitions', count(*) FROM pg_temp.bad_inheritance
RETURNING check_name, result::bigint;

-- check: publications expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'publications', 'zero', 'tables in publications', count(*) FROM pg_temp.bad_publications
RETURNING check_name, result::bigint;

-- check: replication_slots expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'replication_slots', 'zero', 'logical replication slots on this database', count(*)
FROM pg_temp.bad_replication_slots
RETURNING check_name, result::bigint;

-- check: long_transactions expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'long_transactions', 'zero', 'long-running transactions', count(*) FROM pg_temp.bad_long_transactions
RETURNING check_name, result::bigint;

-- check: prepared_transactions expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'prepared_transactions', 'zero', 'prepared transactions', count(*) FROM pg_temp.bad_prepared_transactions
RETURNING check_name, result::bigint;

-- check: leftovers expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'leftovers', 'zero', 'leftovers of an earlier attempt', count(*) FROM pg_temp.bad_leftovers
RETURNING check_name, result::bigint;

-- check: mutation_triggers_off expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'mutation_triggers_off', 'zero', 'append-only triggers that are disabled', count(*)
FROM pg_temp.bad_mutation_triggers_off
RETURNING check_name, result::bigint;

-- check: privileges expect=zero
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'privileges', 'zero', 'tables that ' || current_user || ' may not alter', count(*) FROM pg_temp.bad_privileges
RETURNING check_name, result::bigint;

-- check: physical_replication_slots expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'physical_replication_slots', 'any', 'physical replication slots, which keep WAL (information)', count(*)
FROM pg_replication_slots WHERE slot_type = 'physical'
RETURNING check_name, result::bigint;

-- check: other_sessions expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'other_sessions', 'any', 'other sessions connected (information)', count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
RETURNING check_name, result::bigint;

-- Each large table is written anew beside its old self, indexes included, before the old one is given back.
-- check: bytes_needed expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'bytes_needed', 'any', 'disk space needed, bytes (information)',
       sum(pg_total_relation_size(to_regclass('mandate.' || table_name))) FROM pg_temp.v7_tables
RETURNING check_name, result::bigint;

-- check: search_path expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'search_path', 'any', 'search_path of the database (information)',
       COALESCE((SELECT substring(c FROM 13) FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c
                 WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND s.setrole = 0 AND c LIKE 'search_path=%'), 'not set: the guide''s unqualified names will fail')
RETURNING check_name, result;

-- check: schema_version expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'schema_version', 'any', 'schema version (information)', version::text FROM pg_temp.v7_version
RETURNING check_name, result;

-- check: server_version expect=any
INSERT INTO pg_temp.check_results (check_id, expect, check_name, result)
SELECT 'server_version', 'any', 'server version (information)', current_setting('server_version')
RETURNING check_name, result;

\echo ''
\echo '=== MIGRATION READINESS SUMMARY ==='
\echo 'If all "result" values are 0 (except for row counts), migration is SAFE to proceed.'

-- check: readiness expect=any
SELECT 'readiness' AS check_name,
       CASE WHEN (SELECT version FROM pg_temp.v7_version) = 8
            THEN 'ALREADY AT VERSION 8, nothing to migrate'
                 || CASE WHEN (SELECT status FROM pg_temp.v7_engine) = 'swapped'
                         THEN '; the reverse window is open: mandate rollback 008, or mandate finalize 008'
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
    CREATE TEMP TABLE v7_shown (n integer GENERATED ALWAYS AS IDENTITY, check_id text, offender text);
    FOR item IN SELECT check_id FROM pg_temp.check_results WHERE expect = 'zero' AND result <> '0'
                GROUP BY check_id ORDER BY min(n) LOOP
        EXECUTE format('INSERT INTO pg_temp.v7_shown (check_id, offender) '
                       'SELECT %L, to_json(b)::text FROM pg_temp.%I b LIMIT 5', item.check_id, 'bad_' || item.check_id);
    END LOOP;
END
$$;
SELECT '  ' || check_id, offender FROM pg_temp.v7_shown ORDER BY n;

COMMIT;
