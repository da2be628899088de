-- Fix for the pre-migration check `long_transactions` of migration 009.
--
-- What is wrong: a transaction has been open for long. The migration would wait for its locks, and every reader behind
-- the migration.
-- What this does: prints the command that ends each such session, with what it is. Ask its owner first.
--
--   psql -h localhost -U postgres mandate < fixes/009_long_transactions.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT format('SELECT pg_terminate_backend(%s); -- %s, %s, %s, since %s', pid, usename, application_name, state,
              date_trunc('second', xact_start))
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND xact_start IS NOT NULL ORDER BY xact_start;
