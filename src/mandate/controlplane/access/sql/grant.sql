-- Three roles that nobody logs in as: whoever should have their rights becomes a member. Again changes nothing.
DO $$
DECLARE
    item record;
    owner regrole := (SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname = 'mandate');
BEGIN
    FOR item IN SELECT name FROM unnest(ARRAY['mandate_runtime', 'mandate_auditor', 'mandate_migrator']) name
                WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) LOOP
        EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', item.name);
    END LOOP;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname IN ('mandate_runtime', 'mandate_auditor', 'mandate_migrator')
               AND (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)) THEN
        RAISE EXCEPTION 'one of the roles mandate_runtime, mandate_auditor and mandate_migrator has attributes of an administrator'
            USING HINT = 'ALTER ROLE ... NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS';
    END IF;

    REVOKE ALL ON ALL TABLES IN SCHEMA mandate FROM mandate_runtime, mandate_auditor;
    REVOKE CREATE ON SCHEMA mandate FROM mandate_runtime, mandate_auditor, PUBLIC;
    GRANT USAGE ON SCHEMA mandate TO mandate_runtime, mandate_auditor;
    GRANT SELECT ON ALL TABLES IN SCHEMA mandate TO mandate_runtime, mandate_auditor;
    FOR item IN SELECT relname FROM pg_catalog.pg_class
                WHERE relnamespace = 'mandate'::regnamespace AND relkind IN ('r', 'p') AND relname IN (
                    'organizations', 'domains', 'scopes', 'mandate_specs', 'policy_snapshots', 'decision_events',
                    'verdict_events', 'audit_timeline_entries', 'spec_events') LOOP
        EXECUTE format('GRANT INSERT ON mandate.%I TO mandate_runtime', item.relname);
    END LOOP;

    -- Only its owner may change a table. A superuser's rights are not for passing on.
    IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = owner) AND owner <> 'mandate_migrator'::regrole THEN
        EXECUTE format('GRANT %s TO mandate_migrator', owner);
        EXECUTE format('GRANT CREATE ON DATABASE %I TO mandate_migrator', current_database());
    END IF;
END
$$
