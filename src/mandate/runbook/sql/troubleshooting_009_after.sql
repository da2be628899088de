\echo '=== Keys ==='

-- check: primary_keys_of_tables expect=rows
SELECT c.conrelid::regclass AS table_name, pg_get_constraintdef(c.oid) AS primary_key FROM pg_constraint c
WHERE c.contype = 'p' AND c.connamespace = 'mandate'::regnamespace ORDER BY 1;

\echo '=== Which specs decide ==='

-- check: spec_events_last expect=rows
SELECT DISTINCT ON (organization_id, domain, intent, stage) domain, intent, stage, event, spec_id, version, at
FROM mandate.spec_events ORDER BY organization_id, domain, intent, stage, position DESC LIMIT 20;

-- check: migration_log_row expect=nonzero
SELECT 'rows of version 9 in migration_log' AS check_name, count(*) AS result
FROM mandate.migration_log WHERE migration_version = 9;
