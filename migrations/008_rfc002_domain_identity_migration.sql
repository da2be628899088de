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

-- 008: RFC-002 v1.2 Domain Identity Migration.
--
--   psql -h localhost -U postgres mandate < 008_rfc002_domain_identity_migration.sql
--
-- Surrogate UUID keys of domains and scopes become readable natural keys, in every table that refers to them. One
-- transaction: the database is wholly version 7 or wholly version 8. Run 008_PRE_MIGRATION_CHECKS.sql first; data
-- that would make this lossy or wrong is refused here too. Run again on version 8 it says so and changes nothing.
--
-- Every step is a function in pg_temp, because databases in the field differ in shape and because a step must be able
-- to do nothing on version 8. Each prints the commands it ran. Small tables are backfilled with UPDATE; each large
-- append-only table is rewritten exactly once, by one ALTER TABLE.
--
-- Choices: a policy's `domain_id` key becomes `domain` (no domain_id survives where the evaluator looks); evidence in
-- decision_events.scope, .context and audit_timeline_entries.details stays byte for byte and resolves through
-- identity_map; the unique index over the six scope selectors becomes a plain one, because the readable scope_id is
-- made from the selectors and is now the identity, and several scopes of a domain may be created from it alone.

\set QUIET off
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
\set QUIET on
SET LOCAL client_min_messages = warning;
SET LOCAL row_security = off;
SET LOCAL work_mem = '64MB';
-- Nothing may wait for a lock before the limit stands, not even the checking of a function's body.
SET LOCAL check_function_bodies = off;
DO $$
BEGIN
    -- A limit set by the caller (PGOPTIONS='-c lock_timeout=60s') stays.
    IF current_setting('lock_timeout') = '0' THEN
        PERFORM set_config('lock_timeout', '15s', true);
    END IF;
END
$$;

-- Step 0: may we, and must we? ---------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pg_temp.m008_has_column(tab text, col text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute
                   WHERE attrelid = pg_catalog.to_regclass('mandate.' || tab) AND attname = col AND NOT attisdropped)
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_tables() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY['scopes', 'policy_snapshots', 'decision_events', 'verdict_events', 'audit_timeline_entries']
$$;

-- 'audit_timeline' is what the timeline calls itself in the names of its indexes and triggers.
CREATE OR REPLACE FUNCTION pg_temp.m008_short(tab text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE tab WHEN 'audit_timeline_entries' THEN 'audit_timeline' ELSE tab END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_running() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.current_setting('mandate.migration_008', true) IS NOT DISTINCT FROM 'running'
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_lock() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tab text;
    holders text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['organizations', 'domains'] || pg_temp.m008_tables() || '{mandate_specs}' LOOP
        EXECUTE format('LOCK TABLE mandate.%I IN ACCESS EXCLUSIVE MODE', tab);
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    SELECT string_agg(DISTINCT format('pid %s (%s, %s, %s)', a.pid, a.usename, a.application_name, a.state), '; ')
    INTO holders
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.relation = to_regclass('mandate.' || tab) AND l.granted AND a.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());
    RAISE EXCEPTION 'lock timeout: mandate.% could not be locked within %: held by %',
        tab, current_setting('lock_timeout'), COALESCE(holders, 'a session that has just ended')
        USING ERRCODE = 'lock_not_available', HINT = 'Stop that session and run the file again; nothing was changed.';
END
$$;

-- The conductor's engine works beside the tables and keeps itself in step with them: nothing may change them under it.
CREATE OR REPLACE FUNCTION pg_temp.m008_engine_schemas() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.string_agg(nspname, ', ' ORDER BY nspname) FROM pg_catalog.pg_namespace
    WHERE nspname IN ('mandate_new_008', 'mandate_pre_008', 'mandate_rekey_008')
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_no_engine() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_temp.m008_engine_schemas() IS NOT NULL THEN
        RAISE EXCEPTION 'REFUSED: `mandate run 008` is at work on this database, or stopped on its way (schemas %)',
            pg_temp.m008_engine_schemas()
            USING HINT = '`mandate run 008` goes on with it; `mandate abort 008` drops what it built, then run this '
                         'file again. `mandate status` says how it stands.';
    END IF;
END
$$;

-- Views of the pre-checks in other sessions' pg_temp: of a psql that is still open, or of one that was killed together
-- with the server. They hold the old columns.
CREATE OR REPLACE FUNCTION pg_temp.m008_drop_views() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind = 'v' AND n.nspname ~ '^pg_temp_' AND n.oid <> pg_my_temp_schema()
                  AND c.relname ~ '^(v7|v8|bad)_' LOOP
        EXECUTE format('DROP VIEW IF EXISTS %I.%I CASCADE', item.nspname, item.relname);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_begin() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('mandate.migration_008', '', true);
    IF current_setting('server_version_num')::int < 140000 THEN
        RAISE EXCEPTION 'PostgreSQL 14 or newer is needed; this server is %', current_setting('server_version');
    ELSIF to_regclass('mandate.domains') IS NULL OR to_regclass('mandate.decision_events') IS NULL
        OR to_regclass('mandate.mandate_specs') IS NULL OR to_regclass('mandate.verdict_events') IS NULL THEN
        RAISE EXCEPTION 'database "%" is not a Mandate database of version 7', current_database()
            USING HINT = 'Connect to the right database, or apply migrations 001 to 007 first.';
    ELSIF NOT pg_try_advisory_xact_lock(1296126532, 8) THEN
        RAISE EXCEPTION 'another session is running migration 008 in this database'
            USING ERRCODE = 'lock_not_available';
    ELSIF NOT pg_temp.m008_has_column('domains', 'domain_id') AND to_regclass('mandate.identity_map') IS NOT NULL THEN
        RETURN NEXT 'Migration 008 is already applied: this database is at version 8. Nothing was changed.';
        IF pg_temp.m008_engine_schemas() IS NOT NULL THEN
            RETURN NEXT 'It was `mandate run 008` that applied it, and its reverse window is open: `mandate rollback '
                        '008` goes back without loss, `mandate finalize 008` drops version 7''s tables.';
        END IF;
        RETURN;
    ELSIF to_regclass('mandate.identity_map') IS NOT NULL OR to_regclass('mandate.migration_log') IS NOT NULL
        OR EXISTS (SELECT FROM unnest(pg_temp.m008_tables() || '{domains}') t
                   WHERE NOT pg_temp.m008_has_column(t, 'domain_id')) THEN
        RAISE EXCEPTION 'REFUSED: the database is neither at version 7 nor at version 8'
            USING HINT = 'Run 008_PRE_MIGRATION_CHECKS.sql: its check "leftovers" names what is left of an earlier '
                         'attempt.';
    END IF;
    PERFORM pg_temp.m008_no_engine();
    PERFORM pg_temp.m008_lock();
    -- It may have begun while this waited for the locks.
    PERFORM pg_temp.m008_no_engine();
    PERFORM pg_temp.m008_drop_views();
    PERFORM set_config('statement_timeout', '0', true),
            set_config('idle_in_transaction_session_timeout', '0', true),
            set_config('maintenance_work_mem', GREATEST(setting::bigint, 262144) || 'kB', true)
    FROM pg_settings WHERE name = 'maintenance_work_mem';
    PERFORM set_config('mandate.migration_008', 'running', true);
END
$$;

-- The pre-checks' views, where the same session ran them, would hold on to the old columns.
CREATE OR REPLACE FUNCTION pg_temp.m008_forget_checks() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT relname FROM pg_class
                WHERE relnamespace = pg_my_temp_schema() AND relkind = 'v' AND relname ~ '^(bad|v7)_' LOOP
        EXECUTE format('DROP VIEW IF EXISTS pg_temp.%I CASCADE', item.relname);
    END LOOP;
END
$$;

-- Step 1: the two maps, old key -> new key ---------------------------------------------------------------------------

CREATE TEMP TABLE m008_domains (
    domain_id uuid PRIMARY KEY, organization_id uuid, old_name text, new_name text, hex text UNIQUE
);
CREATE TEMP TABLE m008_scopes (
    scope_id uuid PRIMARY KEY, organization_id uuid, domain_id uuid, domain text, new_scope_id text, hex text UNIQUE
);

CREATE OR REPLACE FUNCTION pg_temp.m008_hex(id text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.lower(pg_catalog.translate(id, '{}-', ''))
$$;

-- One segment of a scope id, with its dot; '' for an absent selector.
CREATE OR REPLACE FUNCTION pg_temp.m008_segment(selector text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN selector IS NULL OR selector = '' THEN ''
                ELSE '.' || pg_catalog.regexp_replace(pg_catalog.lower(selector COLLATE "C"), '[^a-z0-9_-]', '-', 'g')
           END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_maps() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    mapping text := 'SELECT NULL::uuid AS domain_id, NULL::uuid AS organization_id, NULL::text AS old_name, '
                    'NULL::text AS new_name WHERE false';
    kept text := 'SELECT NULL::uuid AS scope_id, NULL::text AS new_scope_id WHERE false';
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    -- A domain_id column is optional: two domains of one name can only be told apart by it.
    IF to_regclass('mandate_conductor.migration_008_domain_names') IS NOT NULL THEN
        mapping := 'SELECT (to_jsonb(n) ->> ''domain_id'')::uuid AS domain_id, organization_id, old_name, new_name '
                   'FROM mandate_conductor.migration_008_domain_names n';
    END IF;
    -- The more particular mapping outweighs the more general one.
    EXECUTE format($sql$
        INSERT INTO pg_temp.m008_domains
        SELECT d.domain_id, d.organization_id, d.name,
               COALESCE((SELECT m.new_name FROM (%s) m
                         WHERE m.old_name = d.name
                           AND (m.organization_id IS NULL OR m.organization_id = d.organization_id)
                           AND (m.domain_id IS NULL OR m.domain_id = d.domain_id)
                         ORDER BY m.domain_id NULLS LAST, m.organization_id NULLS LAST, m.new_name COLLATE "C"
                         LIMIT 1), d.name),
               pg_temp.m008_hex(d.domain_id::text)
        FROM mandate.domains d $sql$, mapping);
    -- A scope that had a readable id before a rollback gets it again.
    IF to_regclass('mandate_conductor.migration_008_scope_names') IS NOT NULL THEN
        kept := 'SELECT scope_id, new_scope_id FROM mandate_conductor.migration_008_scope_names';
    END IF;
    -- Where two scopes arrive at the same text each gets 8 hex digits of its UUID; should that meet another scope's
    -- text, all 32.
    EXECUTE format($sql$
        INSERT INTO pg_temp.m008_scopes
        WITH base AS (
            SELECT s.scope_id, s.organization_id, s.domain_id, d.new_name AS domain, pg_temp.m008_hex(s.scope_id::text) AS hex,
                   pg_temp.m008_segment(s.environment) || pg_temp.m008_segment(s.service) || pg_temp.m008_segment(s.agent)
                   || pg_temp.m008_segment(s.scope_system) || pg_temp.m008_segment(s.tenant) AS path
            FROM mandate.scopes s LEFT JOIN pg_temp.m008_domains d USING (domain_id)
        ), readable AS (
            SELECT b.*, domain || CASE path WHEN '' THEN '.default' ELSE path END AS id, k.new_scope_id AS kept
            FROM base b LEFT JOIN (%s) k ON k.scope_id = b.scope_id AND starts_with(k.new_scope_id, b.domain || '.')
        ), counted AS (
            SELECT *, count(*) FILTER (WHERE kept IS NULL) OVER (PARTITION BY id) > 1
                   OR EXISTS (SELECT FROM readable o WHERE o.kept = r.id) AS shared
            FROM readable r
        ), suffixed AS (
            SELECT *, CASE WHEN kept IS NOT NULL THEN kept WHEN shared THEN id || '-' || left(hex, 8) ELSE id END AS short_id
            FROM counted
        )
        SELECT scope_id, organization_id, domain_id, domain,
               CASE WHEN kept IS NULL AND shared AND count(*) OVER (PARTITION BY short_id) > 1
                    THEN id || '-' || hex ELSE short_id END, hex
        FROM suffixed $sql$, kept);
    ANALYZE pg_temp.m008_domains, pg_temp.m008_scopes;
END
$$;

-- Step 2: refuse what would be lossy or wrong. One pass over each table. ---------------------------------------------

CREATE OR REPLACE FUNCTION pg_temp.m008_policies() RETURNS TABLE (
    snapshot_id uuid, organization_id uuid, place bigint, policy jsonb, scope_known boolean, domain_known boolean,
    new_policy jsonb
) LANGUAGE sql STABLE AS $$
    SELECT p.snapshot_id, p.organization_id, e.ordinality, e.value,
           COALESCE(e.value -> 'scope_id', 'null') = 'null' OR s.scope_id IS NOT NULL,
           (COALESCE(e.value -> 'domain_id', 'null') = 'null' OR by_id.domain_id IS NOT NULL)
           AND (COALESCE(e.value -> 'domain', 'null') = 'null' OR by_name.domain_id IS NOT NULL)
           AND (by_id.domain_id IS NULL OR by_name.domain_id IS NULL OR by_id.domain_id = by_name.domain_id),
           CASE WHEN jsonb_typeof(e.value) = 'object' THEN
               (e.value - 'domain_id')
               || CASE WHEN s.scope_id IS NOT NULL THEN jsonb_build_object('scope_id', s.new_scope_id) ELSE '{}' END
               || CASE WHEN by_id.domain_id IS NOT NULL THEN jsonb_build_object('domain', by_id.new_name)
                       WHEN by_name.domain_id IS NOT NULL THEN jsonb_build_object('domain', by_name.new_name)
                       ELSE '{}' END
           ELSE e.value END
    FROM mandate.policy_snapshots p
    CROSS JOIN LATERAL jsonb_array_elements(p.policies) WITH ORDINALITY e
    LEFT JOIN pg_temp.m008_scopes s ON s.hex = pg_temp.m008_hex(e.value ->> 'scope_id')
    LEFT JOIN pg_temp.m008_domains by_id ON by_id.hex = pg_temp.m008_hex(e.value ->> 'domain_id')
    LEFT JOIN LATERAL (
        SELECT d.* FROM pg_temp.m008_domains d
        WHERE d.organization_id = p.organization_id AND e.value ->> 'domain' IN (d.old_name, d.new_name)
        ORDER BY d.domain_id IS DISTINCT FROM by_id.domain_id, d.old_name <> e.value ->> 'domain',
                 d.old_name <> d.new_name, d.domain_id LIMIT 1
    ) by_name ON true
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_problems() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    tab text;
    bad record;
BEGIN
    RETURN QUERY SELECT format('domain %s is called %L, which is not a slug', domain_id, new_name)
                 FROM pg_temp.m008_domains WHERE new_name !~ '^[a-z0-9_-]+$' OR new_name IS NULL;
    RETURN QUERY SELECT format('domain %s belongs to organization %s, which does not exist', d.domain_id, d.organization_id)
                 FROM pg_temp.m008_domains d LEFT JOIN mandate.organizations o USING (organization_id)
                 WHERE o.organization_id IS NULL;
    RETURN QUERY SELECT format('%s domains of organization %s become %L', count(*), organization_id, new_name)
                 FROM pg_temp.m008_domains GROUP BY organization_id, new_name HAVING count(*) > 1;
    RETURN QUERY SELECT format('%s scopes become %L', count(*), new_scope_id)
                 FROM pg_temp.m008_scopes WHERE new_scope_id IS NOT NULL GROUP BY new_scope_id HAVING count(*) > 1;
    RETURN QUERY SELECT format('table mandate.%I has inheritance children or partitions', c.relname)
                 FROM pg_class c WHERE c.relnamespace = 'mandate'::regnamespace
                   AND c.relname = ANY (pg_temp.m008_tables() || '{domains}')
                   AND EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhparent, i.inhrelid));
    RETURN QUERY SELECT format('policy_snapshots: %s policies name a scope or domain that does not exist', count(*))
                 FROM pg_temp.m008_policies() WHERE NOT (scope_known AND domain_known) HAVING count(*) > 0;
    FOREACH tab IN ARRAY pg_temp.m008_tables() LOOP
        EXECUTE format($sql$
            SELECT count(*) FILTER (WHERE r.organization_id IS NULL) AS no_organization,
                   count(*) FILTER (WHERE r.domain_id IS NULL) AS no_domain,
                   count(*) FILTER (WHERE r.domain_id IS NOT NULL AND d.domain_id IS NULL) AS unknown_domain,
                   count(*) FILTER (WHERE r.organization_id <> d.organization_id) AS other_organization,
                   count(*) FILTER (WHERE %1$s NOT IN ('', d.old_name, d.new_name)) AS other_text,
                   count(*) FILTER (WHERE %2$s IS NOT NULL AND s.scope_id IS NULL) AS unknown_scope,
                   count(*) FILTER (WHERE s.domain_id <> r.domain_id) AS other_scope,
                   count(*) FILTER (WHERE r.organization_id IS NOT NULL AND o.organization_id IS NULL)
                       AS unknown_organization,
                   %4$s AS unknown_decision, %5$s AS unknown_snapshot
            FROM mandate.%3$I r
            LEFT JOIN pg_temp.m008_domains d ON d.domain_id = r.domain_id
            LEFT JOIN mandate.organizations o ON o.organization_id = r.organization_id
            LEFT JOIN pg_temp.m008_scopes s ON s.scope_id = %2$s %6$s $sql$,
            CASE WHEN pg_temp.m008_has_column(tab, 'domain') THEN 'r.domain' ELSE 'NULL::text' END,
            CASE WHEN tab = 'verdict_events' THEN 'r.scope_id' ELSE 'NULL::uuid' END, tab,
            CASE WHEN tab IN ('verdict_events', 'audit_timeline_entries')
                 THEN 'count(*) FILTER (WHERE e.decision_id IS NULL)' ELSE '0::bigint' END,
            CASE WHEN tab = 'verdict_events' THEN 'count(*) FILTER (WHERE p.snapshot_id IS NULL)' ELSE '0::bigint' END,
            CASE WHEN tab IN ('verdict_events', 'audit_timeline_entries')
                 THEN 'LEFT JOIN mandate.decision_events e ON e.decision_id = r.decision_id ' ELSE '' END
            || CASE WHEN tab = 'verdict_events'
                    THEN 'LEFT JOIN mandate.policy_snapshots p ON p.snapshot_id = r.snapshot_id' ELSE '' END) INTO bad;
        RETURN QUERY SELECT format('%s: %s rows %s', tab, p.rows, p.problem) FROM (VALUES
            (bad.no_organization, 'without organization_id'),
            (bad.no_domain, 'without domain_id'),
            (bad.unknown_domain, 'whose domain_id is not in domains'),
            (bad.other_organization, 'whose organization is not that of their domain'),
            (bad.other_text, 'whose domain text contradicts their domain_id'),
            (bad.unknown_scope, 'whose scope_id is not in scopes'),
            (bad.other_scope, 'whose scope belongs to another domain'),
            (bad.unknown_organization, 'whose organization_id is not in organizations'),
            (bad.unknown_decision, 'whose decision_id is not in decision_events'),
            (bad.unknown_snapshot, 'whose snapshot_id is not in policy_snapshots')) p (rows, problem)
        WHERE p.rows > 0;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_refuse() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    problems text;
    total bigint;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    IF pg_temp.m008_has_column('domains', 'domain') AND EXISTS (
        SELECT FROM pg_temp.m008_domains m JOIN mandate.domains d USING (domain_id)
        WHERE to_jsonb(d) ->> 'domain' NOT IN ('', m.old_name, m.new_name)) THEN
        RAISE EXCEPTION 'REFUSED: domains.domain contradicts domains.name'
            USING HINT = 'Run 008_PRE_MIGRATION_CHECKS.sql; nothing was changed.';
    END IF;
    SELECT string_agg(p, E'\n  and: ') FILTER (WHERE n <= 20), count(*) INTO problems, total
    FROM pg_temp.m008_problems() WITH ORDINALITY AS x (p, n);
    IF total > 0 THEN
        RAISE EXCEPTION 'REFUSED: %',
            problems || CASE WHEN total > 20 THEN format(E'\n  and %s more', total - 20) ELSE '' END
            USING HINT = 'Run 008_PRE_MIGRATION_CHECKS.sql, which shows the rows; nothing was changed.';
    END IF;
END
$$;

-- Step 3: clear the way. Keys and indexes on columns that go away would only be rebuilt for nothing. ------------------

CREATE TEMP TABLE m008_kept (tab text, command text);
CREATE TEMP TABLE m008_triggers (tab text, name text, enabled "char");

CREATE OR REPLACE FUNCTION pg_temp.m008_clear() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    FOR item IN
        SELECT c.conname, t.relname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
        WHERE c.contype = 'f' AND t.relnamespace = 'mandate'::regnamespace AND t.relname = ANY (pg_temp.m008_tables())
          AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                      AND (a.attname IN ('domain_id', 'domain')
                           OR a.attname = 'scope_id' AND t.relname = 'verdict_events'))
        ORDER BY t.relname, c.conname
    LOOP
        EXECUTE format('ALTER TABLE mandate.%I DROP CONSTRAINT %I', item.relname, item.conname);
        RETURN NEXT 'ALTER TABLE';
    END LOOP;
    FOR item IN
        SELECT i.indexrelid::regclass AS index, pg_get_indexdef(i.indexrelid) AS definition, x.relname, t.relname AS tab,
               (SELECT array_agg(a.attname::text) FROM pg_attribute a
                WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])) AS columns,
               i.indnkeyatts = 1 AND i.indnatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL AS plain,
               EXISTS (SELECT FROM pg_depend p JOIN pg_attribute a ON a.attrelid = p.refobjid AND a.attnum = p.refobjsubid
                       WHERE p.objid = i.indexrelid AND p.classid = 'pg_class'::regclass
                         AND p.refobjid = i.indrelid AND a.attname = 'domain') AS on_text
        FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
        WHERE t.relnamespace = 'mandate'::regnamespace AND t.relname = ANY (pg_temp.m008_tables())
          AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
        ORDER BY t.relname, x.relname
    LOOP
        IF item.plain AND (item.columns <@ ARRAY['domain_id', 'domain']
                           OR item.tab = 'verdict_events' AND item.columns = ARRAY['scope_id']) THEN
            EXECUTE format('DROP INDEX %s', item.index);
            RETURN NEXT format('DROP INDEX (%s)', item.relname);
        ELSIF item.tab = 'scopes' AND item.definition ~ 'COALESCE\(scope_domain'
            AND item.definition ~ 'COALESCE\(tenant' THEN
            EXECUTE format('DROP INDEX %s', item.index);
            RETURN NEXT format('DROP INDEX (%s)', item.relname);
        ELSIF item.on_text THEN
            -- Somebody's own index on the old domain text: the same again on the new column.
            IF item.relname <> format('idx_%s_organization_domain', pg_temp.m008_short(item.tab)) THEN
                INSERT INTO pg_temp.m008_kept VALUES (item.tab, item.definition);
            END IF;
            EXECUTE format('DROP INDEX %s', item.index);
            RETURN NEXT format('DROP INDEX (%s)', item.relname);
        END IF;
    END LOOP;
    INSERT INTO pg_temp.m008_kept
    SELECT t.relname, format('GRANT %s (domain) ON mandate.%I TO %s%s', acl.privilege_type, t.relname,
               CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END,
               CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = 'domain' AND a.attacl IS NOT NULL
    CROSS JOIN LATERAL aclexplode(a.attacl) acl
    WHERE t.relnamespace = 'mandate'::regnamespace AND t.relname = ANY (pg_temp.m008_tables());
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_triggers_off(tab text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT tgname, tgenabled FROM pg_trigger
                WHERE tgrelid = to_regclass('mandate.' || tab) AND NOT tgisinternal AND tgenabled <> 'D' LOOP
        INSERT INTO pg_temp.m008_triggers VALUES (tab, item.tgname, item.tgenabled);
        EXECUTE format('ALTER TABLE mandate.%I DISABLE TRIGGER %I', tab, item.tgname);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_triggers_on(of_table text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT * FROM pg_temp.m008_triggers WHERE tab = of_table LOOP
        EXECUTE format('ALTER TABLE mandate.%I ENABLE %s TRIGGER %I', item.tab,
                       CASE item.enabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END, item.name);
    END LOOP;
    DELETE FROM pg_temp.m008_triggers WHERE tab = of_table;
END
$$;

-- Step 4: the small tables -------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pg_temp.m008_domains() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
    n bigint;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    PERFORM pg_temp.m008_triggers_off('domains');
    -- The old keys: the primary key goes with its column, unique (organization_id, name) becomes the primary key.
    FOR item IN SELECT c.conname FROM pg_constraint c
                WHERE c.conrelid = 'mandate.domains'::regclass AND c.contype = 'u'
                  AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
                       WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) = '{name,organization_id}' LOOP
        EXECUTE format('ALTER TABLE mandate.domains DROP CONSTRAINT %I', item.conname);
    END LOOP;
    UPDATE mandate.domains d SET name = m.new_name FROM pg_temp.m008_domains m
    WHERE m.domain_id = d.domain_id AND m.new_name <> d.name;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN NEXT format('UPDATE %s (domains renamed)', n);
    -- PostgreSQL 18 names NOT NULL constraints after their column: drop before, set after the rename.
    ALTER TABLE mandate.domains DROP COLUMN IF EXISTS domain, DROP COLUMN domain_id, ALTER COLUMN name DROP NOT NULL;
    ALTER TABLE mandate.domains RENAME COLUMN name TO domain;
    ALTER TABLE mandate.domains
        ALTER COLUMN domain SET NOT NULL,
        ADD CONSTRAINT domains_pkey PRIMARY KEY (organization_id, domain),
        ADD CONSTRAINT domains_domain_slug_format CHECK (domain ~ '^[a-z0-9_-]+$');
    RETURN NEXT 'ALTER TABLE (domains: primary key is organization_id, domain)';
    PERFORM pg_temp.m008_triggers_on('domains');
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_scopes() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    PERFORM pg_temp.m008_triggers_off('scopes');
    ALTER TABLE mandate.scopes DROP COLUMN IF EXISTS domain, ALTER COLUMN domain_id DROP NOT NULL;
    ALTER TABLE mandate.scopes RENAME COLUMN domain_id TO domain;
    ALTER TABLE mandate.scopes
        ALTER COLUMN scope_id DROP DEFAULT, ALTER COLUMN domain DROP DEFAULT,
        ALTER COLUMN scope_id TYPE text, ALTER COLUMN domain TYPE text;
    RETURN NEXT 'ALTER TABLE (scopes: scope_id and domain are text)';
    UPDATE mandate.scopes s SET scope_id = m.new_scope_id, domain = m.domain
    FROM pg_temp.m008_scopes m WHERE m.scope_id::text = s.scope_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN NEXT format('UPDATE %s (scopes.domain backfill)', n);
    PERFORM pg_temp.m008_triggers_on('scopes');
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_policy_snapshots() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    PERFORM pg_temp.m008_triggers_off('policy_snapshots');
    ALTER TABLE mandate.policy_snapshots DROP COLUMN IF EXISTS domain, ALTER COLUMN domain_id DROP NOT NULL;
    ALTER TABLE mandate.policy_snapshots RENAME COLUMN domain_id TO domain;
    ALTER TABLE mandate.policy_snapshots ALTER COLUMN domain DROP DEFAULT, ALTER COLUMN domain TYPE text;
    RETURN NEXT 'ALTER TABLE (policy_snapshots: domain is text)';
    UPDATE mandate.policy_snapshots p SET domain = m.new_name
    FROM pg_temp.m008_domains m WHERE m.domain_id::text = p.domain;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN NEXT format('UPDATE %s (policy_snapshots.domain backfill)', n);
    UPDATE mandate.policy_snapshots p SET policies = w.policies
    FROM (SELECT snapshot_id, jsonb_agg(new_policy ORDER BY place) AS policies
          FROM pg_temp.m008_policies() GROUP BY snapshot_id HAVING bool_or(policy <> new_policy)) w
    WHERE w.snapshot_id = p.snapshot_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN NEXT format('UPDATE %s (policy_snapshots.policies keys)', n);
    PERFORM pg_temp.m008_triggers_on('policy_snapshots');
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_mandate_specs() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    IF NOT EXISTS (SELECT FROM pg_temp.m008_domains WHERE old_name <> new_name) THEN
        RETURN NEXT 'UPDATE 0 (mandate_specs.domain renamed)';
        RETURN;
    END IF;
    PERFORM pg_temp.m008_triggers_off('mandate_specs');
    -- Of two domains of one name a spec means the one that keeps it.
    UPDATE mandate.mandate_specs s SET domain = m.new_name
    FROM (SELECT DISTINCT ON (organization_id, old_name) * FROM pg_temp.m008_domains
          ORDER BY organization_id, old_name, old_name <> new_name, domain_id) m
    WHERE m.organization_id = s.organization_id AND m.old_name = s.domain AND m.new_name <> s.domain;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN NEXT format('UPDATE %s (mandate_specs.domain renamed)', n);
    PERFORM pg_temp.m008_triggers_on('mandate_specs');
END
$$;

-- Step 5: constraints of every table; for a large one in the single ALTER TABLE that rewrites it ----------------------

-- The map is a jsonb constant: its lookup costs a fraction of a microsecond, a function with a query in it several.
-- An unknown key would stay what it is and then be refused by the foreign key.
CREATE OR REPLACE FUNCTION pg_temp.m008_constrain(tab text, rewrite boolean) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    changes text := '';
    domain_map jsonb;
    scope_map jsonb;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    IF rewrite THEN
        SELECT COALESCE(jsonb_object_agg(domain_id, new_name), '{}') INTO domain_map FROM pg_temp.m008_domains;
        EXECUTE format('ALTER TABLE mandate.%I DROP COLUMN IF EXISTS domain, '
                       'ALTER COLUMN domain_id DROP NOT NULL, ALTER COLUMN domain_id DROP DEFAULT', tab);
        EXECUTE format('ALTER TABLE mandate.%I RENAME COLUMN domain_id TO domain', tab);
        changes := format('ALTER COLUMN domain TYPE text USING COALESCE(%L::jsonb ->> domain::text, domain::text), ',
                          domain_map);
        IF tab = 'verdict_events' THEN
            ALTER TABLE mandate.verdict_events ALTER COLUMN scope_id DROP DEFAULT;
            SELECT COALESCE(jsonb_object_agg(scope_id, new_scope_id), '{}') INTO scope_map FROM pg_temp.m008_scopes;
            changes := changes || format(
                'ALTER COLUMN scope_id TYPE text USING COALESCE(%L::jsonb ->> scope_id::text, scope_id::text), '
                'ADD CONSTRAINT verdict_events_scope_id_fkey FOREIGN KEY (scope_id) REFERENCES mandate.scopes (scope_id), ',
                scope_map);
        END IF;
    END IF;
    EXECUTE format($sql$
        ALTER TABLE mandate.%1$I %2$s
            ALTER COLUMN domain SET NOT NULL,
            ALTER COLUMN organization_id SET NOT NULL,
            ADD CONSTRAINT %3$I CHECK (domain ~ '^[a-z0-9_-]+$'),
            ADD CONSTRAINT %4$I FOREIGN KEY (organization_id, domain)
                REFERENCES mandate.domains (organization_id, domain) $sql$,
        tab, changes, tab || '_domain_slug_format', tab || '_organization_domain_fkey');
    RETURN NEXT format('ALTER TABLE (%s%s)', tab, CASE WHEN rewrite THEN ': rewritten once' ELSE ': constraints' END);
END
$$;

-- Foreign keys that version 7 should have had: added where the database lacks them, validated where it never was.
CREATE OR REPLACE FUNCTION pg_temp.m008_foreign_keys() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    FOR item IN
        SELECT w.tab, w.col, w.parent, c.conname, c.convalidated
        FROM (SELECT t AS tab, 'organization_id' AS col, 'organizations' AS parent
              FROM unnest(pg_temp.m008_tables() || '{domains}') t
              UNION ALL VALUES ('verdict_events', 'decision_id', 'decision_events'),
                               ('verdict_events', 'snapshot_id', 'policy_snapshots'),
                               ('audit_timeline_entries', 'decision_id', 'decision_events')) w
        LEFT JOIN pg_constraint c ON c.contype = 'f' AND c.conrelid = to_regclass('mandate.' || w.tab)
            AND c.confrelid = to_regclass('mandate.' || w.parent)
            AND c.conkey = (SELECT ARRAY[a.attnum] FROM pg_attribute a
                            WHERE a.attrelid = to_regclass('mandate.' || w.tab) AND a.attname = w.col)
        ORDER BY w.tab, w.col
    LOOP
        IF item.conname IS NULL THEN
            EXECUTE format('ALTER TABLE mandate.%I ADD CONSTRAINT %I FOREIGN KEY (%I) REFERENCES mandate.%I (%I)',
                           item.tab, item.tab || '_' || item.col || '_fkey', item.col, item.parent, item.col);
            RETURN NEXT format('ALTER TABLE (%s_%s_fkey)', item.tab, item.col);
        ELSIF NOT item.convalidated THEN
            EXECUTE format('ALTER TABLE mandate.%I VALIDATE CONSTRAINT %I', item.tab, item.conname);
            RETURN NEXT format('ALTER TABLE (%s)', item.conname);
        END IF;
    END LOOP;
END
$$;

-- Step 6: what version 8 adds ----------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pg_temp.m008_owner() RETURNS regrole LANGUAGE sql STABLE AS $$
    SELECT relowner::regrole FROM pg_class WHERE oid = 'mandate.domains'::regclass
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_functions() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    IF to_regprocedure('mandate.prevent_mutation()') IS NULL THEN
        CREATE FUNCTION mandate.prevent_mutation() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION 'IMMUTABILITY VIOLATION: mandate.% is append-only, % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation',
              HINT = 'Append a new row that supersedes the old one.';
END
$body$;
        EXECUTE format('ALTER FUNCTION mandate.prevent_mutation() OWNER TO %s', pg_temp.m008_owner());
        RETURN NEXT 'CREATE FUNCTION (prevent_mutation)';
    END IF;
    -- starts_with, not LIKE: an underscore is legal in a slug and a wildcard in LIKE.
    CREATE FUNCTION mandate.validate_scope_id_domain_prefix() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT starts_with(NEW.scope_id, NEW.domain || '.') THEN
        RAISE EXCEPTION 'GOVERNANCE VIOLATION: scope_id ''%'' does not embed domain prefix ''%''',
            NEW.scope_id, NEW.domain
            USING ERRCODE = 'check_violation',
                  CONSTRAINT = 'validate_scopes_scope_id_domain_prefix',
                  HINT = format('A scope_id begins with its own domain and a dot: %s.prod.service.agent', NEW.domain);
    END IF;
    RETURN NEW;
END
$body$;
    RETURN NEXT 'CREATE FUNCTION (validate_scope_id_domain_prefix)';
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_prefix_rule() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    CREATE TRIGGER validate_scopes_scope_id_domain_prefix BEFORE INSERT OR UPDATE ON mandate.scopes
        FOR EACH ROW EXECUTE FUNCTION mandate.validate_scope_id_domain_prefix();
    RETURN NEXT 'CREATE TRIGGER (validate_scopes_scope_id_domain_prefix)';
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_new_tables() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    CREATE TABLE mandate.identity_map (
        kind text NOT NULL,
        old_key text NOT NULL,
        new_key text NOT NULL,
        migrated_at timestamptz NOT NULL DEFAULT now(),
        organization_id uuid,
        CONSTRAINT identity_map_pkey PRIMARY KEY (kind, old_key),
        CONSTRAINT identity_map_kind CHECK (kind IN ('domain', 'scope'))
    );
    COMMENT ON TABLE mandate.identity_map IS 'Every UUID that a domain or scope ever had, and the key it has now';
    CREATE INDEX idx_identity_map_new_key ON mandate.identity_map (kind, new_key);
    RETURN NEXT 'CREATE TABLE (identity_map)';
    CREATE TABLE mandate.migration_log (
        id bigint GENERATED ALWAYS AS IDENTITY,
        migration_version integer NOT NULL,
        migration_name text NOT NULL,
        description text,
        executed_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT migration_log_pkey PRIMARY KEY (id),
        CONSTRAINT migration_log_migration_version_key UNIQUE (migration_version)
    );
    COMMENT ON TABLE mandate.migration_log IS 'Migrations that changed the identity of the record';
    RETURN NEXT 'CREATE TABLE (migration_log)';
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_identity_map() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    INSERT INTO mandate.identity_map (kind, old_key, new_key, organization_id)
    SELECT 'domain', domain_id::text, new_name, organization_id FROM pg_temp.m008_domains
    UNION ALL
    SELECT 'scope', scope_id::text, new_scope_id, organization_id FROM pg_temp.m008_scopes;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN NEXT format('INSERT 0 %s (identity_map)', n);
END
$$;

-- UPDATE, DELETE and TRUNCATE are refused on every table. A trigger that is there stays as it is.
CREATE OR REPLACE FUNCTION pg_temp.m008_append_only() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    FOR item IN
        SELECT t.tab, format('prevent_%s_%s', pg_temp.m008_short(t.tab), e.kind) AS name, e.events, e.level
        FROM unnest('{organizations,domains}' || pg_temp.m008_tables()
                    || '{mandate_specs,identity_map,migration_log}') WITH ORDINALITY t (tab, n)
        CROSS JOIN (VALUES ('mutation', 'UPDATE OR DELETE', 'ROW'), ('truncate', 'TRUNCATE', 'STATEMENT'))
            e (kind, events, level)
        ORDER BY t.n, e.kind
    LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger
                       WHERE tgrelid = to_regclass('mandate.' || item.tab) AND tgname = item.name) THEN
            EXECUTE format('CREATE TRIGGER %I BEFORE %s ON mandate.%I FOR EACH %s '
                           'EXECUTE FUNCTION mandate.prevent_mutation()', item.name, item.events, item.tab, item.level);
            RETURN NEXT format('CREATE TRIGGER (%s)', item.name);
        END IF;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_indexes() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    FOR item IN SELECT t AS tab, format('idx_%s_organization_domain', pg_temp.m008_short(t)) AS name
                FROM unnest(pg_temp.m008_tables()) t LOOP
        EXECUTE format('CREATE INDEX %I ON mandate.%I (organization_id, domain)', item.name, item.tab);
        RETURN NEXT format('CREATE INDEX (%s)', item.name);
    END LOOP;
    CREATE INDEX idx_verdict_events_scope_id_text ON mandate.verdict_events (scope_id);
    RETURN NEXT 'CREATE INDEX (idx_verdict_events_scope_id_text)';
    CREATE INDEX idx_scopes_selectors ON mandate.scopes (
        COALESCE(scope_domain, ''), COALESCE(service, ''), COALESCE(agent, ''),
        COALESCE(scope_system, ''), COALESCE(environment, ''), COALESCE(tenant, ''));
    RETURN NEXT 'CREATE INDEX (idx_scopes_selectors)';
    FOR item IN SELECT * FROM pg_temp.m008_kept ORDER BY tab, command LOOP
        EXECUTE item.command;
        RETURN NEXT substring(item.command FROM '^(?:CREATE(?: UNIQUE)? INDEX|GRANT)');
    END LOOP;
END
$$;

-- New objects belong to the owner of the tables, and may be read by whoever may read domains.
CREATE OR REPLACE FUNCTION pg_temp.m008_privileges() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    owner regrole := pg_temp.m008_owner();
    item record;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    EXECUTE format('ALTER TABLE mandate.identity_map OWNER TO %s', owner);
    EXECUTE format('ALTER TABLE mandate.migration_log OWNER TO %s', owner);
    EXECUTE format('ALTER FUNCTION mandate.validate_scope_id_domain_prefix() OWNER TO %s', owner);
    FOR item IN SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
                FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
                WHERE c.oid = 'mandate.domains'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner LOOP
        EXECUTE format('GRANT SELECT ON mandate.identity_map, mandate.migration_log TO %s', item.grantee);
        RETURN NEXT 'GRANT';
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m008_log() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    INSERT INTO mandate.migration_log (migration_version, migration_name, description)
    SELECT 8, 'RFC-002 v1.2 Domain Identity Migration',
           'Domains are identified by (organization_id, domain), scopes by a readable scope_id.'
           || COALESCE(' Renamed: ' || jsonb_agg(jsonb_build_object('organization_id', organization_id,
                       'old_name', old_name, 'new_name', new_name) ORDER BY domain_id)
                       FILTER (WHERE old_name <> new_name)::text, '')
    FROM pg_temp.m008_domains;
    RETURN NEXT 'INSERT 0 1 (migration_log)';
END
$$;

-- Statistics of the new columns; the others survived. Inside the transaction, so that COMMIT is the last that can fail.
CREATE OR REPLACE FUNCTION pg_temp.m008_analyze() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    tab text;
BEGIN
    IF NOT pg_temp.m008_running() THEN RETURN; END IF;
    FOREACH tab IN ARRAY pg_temp.m008_tables() LOOP
        EXECUTE format('ANALYZE mandate.%I (organization_id, domain)', tab);
    END LOOP;
    ANALYZE mandate.domains, mandate.scopes (scope_id), mandate.verdict_events (scope_id), mandate.identity_map;
    RETURN NEXT 'ANALYZE';
END
$$;

-- The steps ----------------------------------------------------------------------------------------------------------

SELECT * FROM pg_temp.m008_begin();
DO $$ BEGIN PERFORM pg_temp.m008_forget_checks(); PERFORM pg_temp.m008_maps(); PERFORM pg_temp.m008_refuse(); END $$;
SELECT * FROM pg_temp.m008_clear();
SELECT * FROM pg_temp.m008_domains();
SELECT * FROM pg_temp.m008_scopes();
SELECT * FROM pg_temp.m008_policy_snapshots();
SELECT * FROM pg_temp.m008_mandate_specs();
SELECT * FROM pg_temp.m008_constrain('scopes', false);
SELECT * FROM pg_temp.m008_constrain('policy_snapshots', false);
SELECT * FROM pg_temp.m008_constrain('decision_events', true);
SELECT * FROM pg_temp.m008_constrain('verdict_events', true);
SELECT * FROM pg_temp.m008_constrain('audit_timeline_entries', true);
SELECT * FROM pg_temp.m008_foreign_keys();
SELECT * FROM pg_temp.m008_functions();
SELECT * FROM pg_temp.m008_prefix_rule();
SELECT * FROM pg_temp.m008_indexes();
SELECT * FROM pg_temp.m008_new_tables();
SELECT * FROM pg_temp.m008_identity_map();
SELECT * FROM pg_temp.m008_append_only();
SELECT * FROM pg_temp.m008_privileges();
SELECT * FROM pg_temp.m008_analyze();
SELECT * FROM pg_temp.m008_log();

-- The functions and tables of this file are temporary; gone even for a session that goes on.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT oid::regprocedure AS name FROM pg_proc
                WHERE pronamespace = pg_my_temp_schema() AND proname ~ '^m008_' LOOP
        EXECUTE format('DROP FUNCTION %s', item.name);
    END LOOP;
    DROP TABLE pg_temp.m008_domains, pg_temp.m008_scopes, pg_temp.m008_kept, pg_temp.m008_triggers;
END
$$;

\set QUIET off
COMMIT;
