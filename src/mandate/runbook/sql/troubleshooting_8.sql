\echo '=== Guide: Post-checks fail ==='

-- check: domain_id_columns_left expect=rows
SELECT table_name, column_name FROM information_schema.columns
WHERE column_name = 'domain_id' AND table_schema = 'mandate' ORDER BY table_name;

-- check: scope_id_type expect=rows
SELECT table_name, data_type FROM information_schema.columns
WHERE table_schema = 'mandate' AND table_name = 'scopes' AND column_name = 'scope_id';

-- check: migration_log_row expect=nonzero
SELECT 'rows of version 8 in migration_log' AS check_name, count(*) AS result
FROM mandate.migration_log WHERE migration_version = 8;
