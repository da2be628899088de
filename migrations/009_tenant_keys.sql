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

-- 009: every key of tenant data begins with organization_id.
--
--   psql -h localhost -U postgres mandate < 009_tenant_keys.sql
--
-- Two organizations may use the same readable scope_id afterwards; a verdict, its decision, scope and snapshot are kept in
-- one organization and domain by foreign keys; the schema can be distributed by organization_id. One transaction: the
-- database is wholly version 8 or wholly version 9. Run 009_PRE_MIGRATION_CHECKS.sql first; what would not fit is refused
-- here too. Run again on version 9 it says so and changes nothing.
--
-- Also: decision_events.received_at, when the server received a decision (of the rows there are: created_at), and an order
-- per organization by it; verdict_events.owning_team of new rows from their scope (recorded ones are evidence and stay);
-- spec_events, where specs are activated and retired; only the indexes that a documented query needs.

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

CREATE OR REPLACE FUNCTION pg_temp.m009_has_column(tab text, col text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute
                   WHERE attrelid = pg_catalog.to_regclass('mandate.' || tab) AND attname = col AND NOT attisdropped)
$$;

-- The primary keys of version 9, and the version 8 indexes that no documented query needs or that a new one replaces.
CREATE OR REPLACE FUNCTION pg_temp.m009_tables() RETURNS TABLE (tab text, key text[], unneeded text)
LANGUAGE sql IMMUTABLE AS $$
    VALUES
    ('scopes', '{organization_id,scope_id}'::text[],
     'COALESCE\(scope_domain.*COALESCE\(tenant|USING \w+ \((organization_id|organization_id, domain)\)$'),
    ('policy_snapshots', '{organization_id,snapshot_id}',
     'USING \w+ \((created_at|version|organization_id|organization_id, domain)\)$'),
    ('decision_events', '{organization_id,decision_id}',
     'USING \w+ \((created_at|intent|stage|context|scope|spec_id, spec_version|organization_id|organization_id, domain)\)$'),
    ('verdict_events', '{organization_id,verdict_id}',
     'USING \w+ \((created_at|decision_id|snapshot_id|scope_id|verdict|matched_policy_ids|owning_team|spec_id, spec_version'
     '|organization_id|organization_id, domain)\)$'),
    ('audit_timeline_entries', '{organization_id,entry_id}',
     'USING \w+ \((created_at|"timestamp"|decision_id|intent|stage|actor|target|details|severity|event_source|authority_level'
     '|organization_id|organization_id, domain)\)$'),
    ('mandate_specs', '{organization_id,spec_id,version}',
     'UNIQUE INDEX .* USING btree \(organization_id, domain, intent, stage\) WHERE \(status = ''active''::text\)$'),
    ('identity_map', '{organization_id,kind,old_key}', 'USING \w+ \(kind, new_key\)$')
$$;

CREATE OR REPLACE FUNCTION pg_temp.m009_running() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.current_setting('mandate.migration_009', true) IS NOT DISTINCT FROM 'running'
$$;

CREATE OR REPLACE FUNCTION pg_temp.m009_lock() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tab text;
    holders text;
BEGIN
    FOREACH tab IN ARRAY '{organizations,domains,scopes,policy_snapshots,decision_events,verdict_events,'
                         'audit_timeline_entries,mandate_specs,identity_map,migration_log}'::text[] LOOP
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
CREATE OR REPLACE FUNCTION pg_temp.m009_no_engine() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regnamespace('mandate_rekey_009') IS NOT NULL OR to_regnamespace('mandate_new_009') IS NOT NULL THEN
        RAISE EXCEPTION 'REFUSED: `mandate run 009` is at work on this database, or stopped on its way'
            USING HINT = '`mandate run 009` goes on with it; `mandate abort 009` drops what it built, then run this '
                         'file again. `mandate status` says how it stands.';
    ELSIF to_regnamespace('mandate_rekey_008') IS NOT NULL OR to_regnamespace('mandate_pre_008') IS NOT NULL THEN
        RAISE EXCEPTION 'REFUSED: migration 008 is not finalized: version 7''s tables are still kept in step'
            USING HINT = 'End it first: mandate finalize 008.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m009_begin() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('mandate.migration_009', '', true);
    IF current_setting('server_version_num')::int < 140000 THEN
        RAISE EXCEPTION 'PostgreSQL 14 or newer is needed; this server is %', current_setting('server_version');
    ELSIF to_regclass('mandate.domains') IS NULL OR to_regclass('mandate.decision_events') IS NULL THEN
        RAISE EXCEPTION 'database "%" is not a Mandate database', current_database()
            USING HINT = 'Connect to the right database, or apply migrations 001 to 008 first.';
    ELSIF pg_temp.m009_has_column('domains', 'domain_id') OR to_regclass('mandate.identity_map') IS NULL THEN
        RAISE EXCEPTION 'REFUSED: the database is not at version 8'
            USING HINT = 'Apply migration 008 first: mandate run 008.';
    ELSIF NOT pg_try_advisory_xact_lock(1296126532, 9) THEN
        RAISE EXCEPTION 'another session is running migration 009 in this database'
            USING ERRCODE = 'lock_not_available';
    ELSIF to_regclass('mandate.spec_events') IS NOT NULL AND pg_temp.m009_has_column('decision_events', 'received_at') THEN
        RETURN NEXT 'Migration 009 is already applied: this database is at version 9. Nothing was changed.';
        IF to_regnamespace('mandate_pre_009') IS NOT NULL THEN
            RETURN NEXT 'It was `mandate run 009` that applied it, and its reverse window is open: `mandate rollback '
                        '009` goes back without loss, `mandate finalize 009` drops version 8''s tables.';
        END IF;
        RETURN;
    ELSIF to_regclass('mandate.spec_events') IS NOT NULL OR pg_temp.m009_has_column('decision_events', 'received_at') THEN
        RAISE EXCEPTION 'REFUSED: the database is neither at version 8 nor at version 9'
            USING HINT = 'Look at mandate.spec_events and decision_events.received_at: what is left there of something else?';
    END IF;
    -- Before anybody has to wait for this file's locks, and again once nobody can begin any more.
    PERFORM pg_temp.m009_no_engine();
    PERFORM pg_temp.m009_lock();
    PERFORM pg_temp.m009_no_engine();
    PERFORM set_config('statement_timeout', '0', true),
            set_config('idle_in_transaction_session_timeout', '0', true),
            set_config('maintenance_work_mem', GREATEST(setting::bigint, 262144) || 'kB', true)
    FROM pg_settings WHERE name = 'maintenance_work_mem';
    PERFORM set_config('mandate.migration_009', 'running', true);
END
$$;

-- Step 1: refuse what does not fit -----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pg_temp.m009_problems() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
    n bigint;
BEGIN
    RETURN QUERY SELECT format('identity_map: %s rows without organization_id', count(*))
                 FROM mandate.identity_map WHERE organization_id IS NULL HAVING count(*) > 0;
    FOR item IN SELECT * FROM (VALUES
        ('verdict_events', 'decision_events', 'decision_id'), ('verdict_events', 'policy_snapshots', 'snapshot_id'),
        ('verdict_events', 'scopes', 'scope_id'), ('audit_timeline_entries', 'decision_events', 'decision_id')
    ) v (child, parent, key) LOOP
        EXECUTE format('SELECT count(*) FROM mandate.%1$I c LEFT JOIN mandate.%2$I p USING (%3$I) WHERE c.%3$I IS NOT NULL '
                       'AND (c.organization_id, c.domain) IS DISTINCT FROM (p.organization_id, p.domain)',
                       item.child, item.parent, item.key) INTO n;
        IF n > 0 THEN
            RETURN NEXT format('%s: %s rows whose %s is not in their organization and domain in %s',
                               item.child, n, item.key, item.parent);
        END IF;
    END LOOP;
    RETURN QUERY SELECT format('foreign key %s of %s refers to the primary key of %s, which becomes another: drop it first',
                               c.conname, c.conrelid::regclass, c.confrelid::regclass)
                 FROM pg_constraint c JOIN pg_temp.m009_tables() t ON c.confrelid = to_regclass('mandate.' || t.tab)
                 WHERE c.contype = 'f' AND c.conrelid NOT IN (SELECT to_regclass('mandate.' || tab)
                                                              FROM pg_temp.m009_tables())
                 ORDER BY 1;
    RETURN QUERY SELECT format('table mandate.%I has inheritance children or partitions', t.tab)
                 FROM pg_temp.m009_tables() t
                 WHERE EXISTS (SELECT FROM pg_inherits i
                               WHERE to_regclass('mandate.' || t.tab) IN (i.inhparent, i.inhrelid));
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m009_refuse() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    problems text;
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    SELECT string_agg(p, E'\n  and: ') INTO problems FROM pg_temp.m009_problems() p;
    IF problems IS NOT NULL THEN
        RAISE EXCEPTION 'REFUSED: %', problems
            USING HINT = 'Run 009_PRE_MIGRATION_CHECKS.sql, which shows the rows; nothing was changed.';
    END IF;
END
$$;

-- Step 2: tables: foreign keys that go away, keys, columns, indexes --------------------------------------------------

-- Those that carry less than organization_id and domain, and those that others imply: a domain's organization exists, a
-- decision's domain does.
CREATE OR REPLACE FUNCTION pg_temp.m009_drop_foreign_keys() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    FOR item IN
        SELECT c.conname, t.relname AS tab
        FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
        JOIN (VALUES ('scopes', 'organizations', '{organization_id}'::text[]),
                     ('policy_snapshots', 'organizations', '{organization_id}'),
                     ('decision_events', 'organizations', '{organization_id}'),
                     ('verdict_events', 'organizations', '{organization_id}'),
                     ('verdict_events', 'domains', '{organization_id,domain}'),
                     ('verdict_events', 'decision_events', '{decision_id}'),
                     ('verdict_events', 'policy_snapshots', '{snapshot_id}'),
                     ('verdict_events', 'scopes', '{scope_id}'),
                     ('audit_timeline_entries', 'organizations', '{organization_id}'),
                     ('audit_timeline_entries', 'domains', '{organization_id,domain}'),
                     ('audit_timeline_entries', 'decision_events', '{decision_id}')) v (tab, parent, columns)
            ON v.tab = t.relname AND c.confrelid = to_regclass('mandate.' || v.parent)
        WHERE c.contype = 'f' AND t.relnamespace = 'mandate'::regnamespace
          AND (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(c.conkey) WITH ORDINALITY k (number, place)
               JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) = v.columns
        ORDER BY t.relname, c.conname
    LOOP
        EXECUTE format('ALTER TABLE mandate.%I DROP CONSTRAINT %I', item.tab, item.conname);
        RETURN NEXT format('ALTER TABLE (%s: drops %s)', item.tab, item.conname);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m009_drop_indexes() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    FOR item IN
        SELECT i.indexrelid::regclass AS index, x.relname
        FROM pg_temp.m009_tables() t JOIN pg_index i ON i.indrelid = to_regclass('mandate.' || t.tab)
        JOIN pg_class x ON x.oid = i.indexrelid
        WHERE pg_get_indexdef(i.indexrelid) ~ t.unneeded
          AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
        ORDER BY x.relname
    LOOP
        EXECUTE format('DROP INDEX %s', item.index);
        RETURN NEXT format('DROP INDEX (%s)', item.relname);
    END LOOP;
END
$$;

-- decision_events is rewritten once; no trigger sees it, no row version is left behind.
CREATE OR REPLACE FUNCTION pg_temp.m009_keys() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    FOR item IN SELECT t.tab, t.key, c.conname FROM pg_temp.m009_tables() t
                JOIN pg_constraint c ON c.contype = 'p' AND c.conrelid = to_regclass('mandate.' || t.tab) LOOP
        EXECUTE format('ALTER TABLE mandate.%I DROP CONSTRAINT %I', item.tab, item.conname);
        IF item.tab = 'decision_events' THEN
            ALTER TABLE mandate.decision_events ADD COLUMN received_at timestamptz DEFAULT now();
            ALTER TABLE mandate.decision_events
                ALTER COLUMN received_at TYPE timestamptz USING created_at, ALTER COLUMN received_at SET NOT NULL;
            RETURN NEXT 'ALTER TABLE (decision_events: received_at)';
        END IF;
        EXECUTE format('ALTER TABLE mandate.%I ADD CONSTRAINT %I PRIMARY KEY (%s)', item.tab, item.conname,
                       array_to_string(item.key, ', '));
        RETURN NEXT format('ALTER TABLE (%s: primary key is %s)', item.tab, array_to_string(item.key, ', '));
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m009_indexes() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    CREATE UNIQUE INDEX scopes_organization_domain_scope_key ON mandate.scopes (organization_id, domain, scope_id);
    CREATE UNIQUE INDEX policy_snapshots_organization_domain_snapshot_key
        ON mandate.policy_snapshots (organization_id, domain, snapshot_id);
    CREATE INDEX idx_policy_snapshots_organization_domain_version
        ON mandate.policy_snapshots (organization_id, domain, version);
    CREATE UNIQUE INDEX decision_events_organization_domain_decision_key
        ON mandate.decision_events (organization_id, domain, decision_id);
    CREATE INDEX idx_decision_events_organization_timestamp
        ON mandate.decision_events (organization_id, "timestamp", decision_id);
    CREATE INDEX idx_decision_events_order ON mandate.decision_events (organization_id, received_at, decision_id);
    CREATE INDEX idx_verdict_events_organization_decision ON mandate.verdict_events (organization_id, decision_id);
    CREATE INDEX idx_verdict_events_organization_timestamp
        ON mandate.verdict_events (organization_id, "timestamp", verdict_id);
    CREATE INDEX idx_verdict_events_organization_scope ON mandate.verdict_events (organization_id, scope_id);
    CREATE INDEX idx_audit_timeline_organization_decision
        ON mandate.audit_timeline_entries (organization_id, decision_id);
    CREATE UNIQUE INDEX mandate_specs_place_key
        ON mandate.mandate_specs (organization_id, domain, intent, stage, spec_id, version);
    CREATE INDEX idx_identity_map_new_key ON mandate.identity_map (organization_id, kind, new_key);
    RETURN NEXT 'CREATE INDEX (12 indexes)';
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m009_foreign_keys() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    ALTER TABLE mandate.verdict_events ADD CONSTRAINT verdict_events_organization_domain_decision_fkey
        FOREIGN KEY (organization_id, domain, decision_id)
        REFERENCES mandate.decision_events (organization_id, domain, decision_id);
    ALTER TABLE mandate.verdict_events ADD CONSTRAINT verdict_events_organization_domain_snapshot_fkey
        FOREIGN KEY (organization_id, domain, snapshot_id)
        REFERENCES mandate.policy_snapshots (organization_id, domain, snapshot_id);
    ALTER TABLE mandate.verdict_events ADD CONSTRAINT verdict_events_organization_domain_scope_fkey
        FOREIGN KEY (organization_id, domain, scope_id)
        REFERENCES mandate.scopes (organization_id, domain, scope_id);
    ALTER TABLE mandate.audit_timeline_entries ADD CONSTRAINT audit_timeline_entries_organization_domain_decision_fkey
        FOREIGN KEY (organization_id, domain, decision_id)
        REFERENCES mandate.decision_events (organization_id, domain, decision_id);
    RETURN NEXT 'ALTER TABLE (4 foreign keys)';
END
$$;

-- Step 3: what version 9 adds ----------------------------------------------------------------------------------------

-- Triggers touch their own row's organization only, and use neither clock nor chance.
CREATE OR REPLACE FUNCTION pg_temp.m009_functions() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    CREATE FUNCTION mandate.fill_verdict_owning_team() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    SELECT s.owning_team INTO NEW.owning_team
    FROM mandate.scopes s
    WHERE s.organization_id = NEW.organization_id AND s.scope_id = NEW.scope_id;
    RETURN NEW;
END
$body$;
    CREATE TRIGGER fill_verdict_events_owning_team BEFORE INSERT ON mandate.verdict_events
        FOR EACH ROW WHEN (NEW.owning_team IS NULL AND NEW.scope_id IS NOT NULL)
        EXECUTE FUNCTION mandate.fill_verdict_owning_team();
    CREATE FUNCTION mandate.validate_spec_event() RETURNS trigger
    LANGUAGE plpgsql AS $body$
DECLARE
    before record;
BEGIN
    SELECT e.position, e.event, e.spec_id, e.version INTO before
    FROM mandate.spec_events e
    WHERE e.organization_id = NEW.organization_id AND e.domain = NEW.domain AND e.intent = NEW.intent
      AND e.stage = NEW.stage
    ORDER BY e.position DESC LIMIT 1;
    NEW.position := COALESCE(NEW.position, COALESCE(before.position, 0) + 1);
    IF NEW.position <> COALESCE(before.position, 0) + 1 THEN
        RAISE EXCEPTION 'GOVERNANCE VIOLATION: spec event % of %/%/% does not follow %', NEW.position, NEW.domain,
            NEW.intent, NEW.stage, COALESCE(before.position, 0)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'validate_spec_events',
                  HINT = 'Leave position out: the next one is taken.';
    ELSIF NEW.event = 'retired' AND (before.event IS DISTINCT FROM 'activated'
                                     OR (before.spec_id, before.version) <> (NEW.spec_id, NEW.version)) THEN
        RAISE EXCEPTION 'GOVERNANCE VIOLATION: spec % version % is not active for %/%/%', NEW.spec_id, NEW.version,
            NEW.domain, NEW.intent, NEW.stage
            USING ERRCODE = 'check_violation', CONSTRAINT = 'validate_spec_events',
                  HINT = 'Only the spec of the last activation can be retired.';
    END IF;
    RETURN NEW;
END
$body$;
    CREATE FUNCTION mandate.activate_spec() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO mandate.spec_events (organization_id, domain, intent, stage, event, spec_id, version, actor, at)
    VALUES (NEW.organization_id, NEW.domain, NEW.intent, NEW.stage, 'activated', NEW.spec_id, NEW.version,
            'recorded as active', NEW.created_at);
    RETURN NULL;
END
$body$;
    RETURN NEXT 'CREATE FUNCTION (3 functions)';
END
$$;

-- Which spec decides: of an organization's domain, intent and stage the last event says it. A spec that is activated
-- supersedes the one before.
CREATE OR REPLACE FUNCTION pg_temp.m009_spec_events() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    CREATE TABLE mandate.spec_events (
        organization_id uuid NOT NULL,
        domain text NOT NULL,
        intent text NOT NULL,
        stage mandate.stage NOT NULL,
        position integer NOT NULL,
        event text NOT NULL,
        spec_id text NOT NULL,
        version integer NOT NULL,
        actor text,
        reason text,
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT spec_events_pkey PRIMARY KEY (organization_id, domain, intent, stage, position),
        CONSTRAINT spec_events_event CHECK (event IN ('activated', 'retired')),
        CONSTRAINT spec_events_position CHECK (position > 0)
    );
    COMMENT ON TABLE mandate.spec_events IS
        'Activations and retirements of specs; the last of a domain, intent and stage says which one decides';
    ALTER TABLE mandate.spec_events ADD CONSTRAINT spec_events_spec_fkey
        FOREIGN KEY (organization_id, domain, intent, stage, spec_id, version)
        REFERENCES mandate.mandate_specs (organization_id, domain, intent, stage, spec_id, version);
    RETURN NEXT 'CREATE TABLE (spec_events)';
    IF to_regclass('mandate_conductor.migration_009_spec_events') IS NOT NULL THEN
        -- What a rollback kept.
        INSERT INTO mandate.spec_events SELECT k.* FROM mandate_conductor.migration_009_spec_events k
        WHERE EXISTS (SELECT FROM mandate.mandate_specs s
                      WHERE (s.organization_id, s.domain, s.intent, s.stage, s.spec_id, s.version)
                          = (k.organization_id, k.domain, k.intent, k.stage, k.spec_id, k.version));
    END IF;
    INSERT INTO mandate.spec_events
        (organization_id, domain, intent, stage, position, event, spec_id, version, actor, at)
    SELECT s.organization_id, s.domain, s.intent, s.stage,
           COALESCE(l.position, 0) + row_number() OVER (PARTITION BY s.organization_id, s.domain, s.intent, s.stage
                                                        ORDER BY s.created_at, s.spec_id, s.version),
           'activated', s.spec_id, s.version, 'recorded as active', s.created_at
    FROM mandate.mandate_specs s
    LEFT JOIN LATERAL (
        SELECT e.position, e.event, e.spec_id, e.version FROM mandate.spec_events e
        WHERE (e.organization_id, e.domain, e.intent, e.stage) = (s.organization_id, s.domain, s.intent, s.stage)
        ORDER BY e.position DESC LIMIT 1
    ) l ON true
    WHERE s.status = 'active'
      AND (l.event IS DISTINCT FROM 'activated' OR (l.spec_id, l.version) <> (s.spec_id, s.version));
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN NEXT format('INSERT 0 %s (spec_events)', n);
    CREATE TRIGGER validate_spec_events BEFORE INSERT ON mandate.spec_events
        FOR EACH ROW EXECUTE FUNCTION mandate.validate_spec_event();
    CREATE TRIGGER prevent_spec_events_mutation BEFORE UPDATE OR DELETE ON mandate.spec_events
        FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();
    CREATE TRIGGER prevent_spec_events_truncate BEFORE TRUNCATE ON mandate.spec_events
        FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();
    -- Whoever records a spec as active activates it, as before.
    CREATE TRIGGER activate_mandate_specs AFTER INSERT ON mandate.mandate_specs
        FOR EACH ROW WHEN (NEW.status = 'active') EXECUTE FUNCTION mandate.activate_spec();
END
$$;

-- New objects belong to the owner of the tables; spec_events may be read and appended to by whoever may do so to specs.
CREATE OR REPLACE FUNCTION pg_temp.m009_privileges() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    owner regrole := (SELECT relowner::regrole FROM pg_class WHERE oid = 'mandate.domains'::regclass);
    item record;
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    EXECUTE format('ALTER TABLE mandate.spec_events OWNER TO %s', owner);
    EXECUTE format('ALTER FUNCTION mandate.fill_verdict_owning_team() OWNER TO %s', owner);
    EXECUTE format('ALTER FUNCTION mandate.validate_spec_event() OWNER TO %s', owner);
    EXECUTE format('ALTER FUNCTION mandate.activate_spec() OWNER TO %s', owner);
    FOR item IN SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.privilege_type
                FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
                WHERE c.oid = 'mandate.mandate_specs'::regclass AND a.privilege_type IN ('SELECT', 'INSERT')
                  AND a.grantee <> c.relowner LOOP
        EXECUTE format('GRANT %s ON mandate.spec_events TO %s', item.privilege_type, item.grantee);
        RETURN NEXT 'GRANT';
    END LOOP;
    -- So do row level security's policies, which speak of organization_id and domain.
    FOR item IN SELECT p.*, pg_get_expr(p.polqual, p.polrelid) AS using_, pg_get_expr(p.polwithcheck, p.polrelid) AS check_,
                       (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ')
                        FROM unnest(p.polroles) r) AS roles
                FROM pg_policy p WHERE p.polrelid = 'mandate.mandate_specs'::regclass ORDER BY p.polname LOOP
        EXECUTE format('CREATE POLICY %I ON mandate.spec_events AS %s FOR %s TO %s%s%s', item.polname,
                       CASE WHEN item.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                       CASE item.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                        WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                       item.roles, ' USING (' || item.using_ || ')', ' WITH CHECK (' || item.check_ || ')');
        RETURN NEXT format('CREATE POLICY (%s)', item.polname);
    END LOOP;
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'mandate.mandate_specs'::regclass) THEN
        ALTER TABLE mandate.spec_events ENABLE ROW LEVEL SECURITY;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pg_temp.m009_log() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    INSERT INTO mandate.migration_log (migration_version, migration_name, description)
    VALUES (9, 'Tenant Keys', 'Every key of tenant data begins with organization_id.');
    RETURN NEXT 'INSERT 0 1 (migration_log)';
    -- A service that runs reads with version 8's words until it looks again.
    PERFORM pg_notify('mandate_changed', '');
END
$$;

-- Inside the transaction, so that COMMIT is the last that can fail.
CREATE OR REPLACE FUNCTION pg_temp.m009_analyze() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_temp.m009_running() THEN RETURN; END IF;
    ANALYZE mandate.decision_events (received_at), mandate.spec_events;
    RETURN NEXT 'ANALYZE';
END
$$;

-- The steps ----------------------------------------------------------------------------------------------------------

SELECT * FROM pg_temp.m009_begin();
DO $$ BEGIN PERFORM pg_temp.m009_refuse(); END $$;
SELECT * FROM pg_temp.m009_drop_foreign_keys();
SELECT * FROM pg_temp.m009_drop_indexes();
SELECT * FROM pg_temp.m009_keys();
SELECT * FROM pg_temp.m009_indexes();
SELECT * FROM pg_temp.m009_foreign_keys();
SELECT * FROM pg_temp.m009_functions();
SELECT * FROM pg_temp.m009_spec_events();
SELECT * FROM pg_temp.m009_privileges();
SELECT * FROM pg_temp.m009_analyze();
SELECT * FROM pg_temp.m009_log();

-- The functions of this file are temporary; gone even for a session that goes on.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT oid::regprocedure AS name FROM pg_proc
                WHERE pronamespace = pg_my_temp_schema() AND proname ~ '^m009_' LOOP
        EXECUTE format('DROP FUNCTION %s', item.name);
    END LOOP;
END
$$;

\set QUIET off
COMMIT;
