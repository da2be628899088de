-- Fix for the pre-migration check `prepared_transactions`.
--
-- What is wrong: a prepared transaction holds its locks until somebody ends it, across restarts.
-- What this does: prints the commands; commit or roll back is for its transaction manager to say.
--
--   psql -h localhost -U postgres mandate < fixes/008_prepared_transactions.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT format('ROLLBACK PREPARED %L; -- or COMMIT PREPARED; %s, since %s', gid, owner, date_trunc('second', prepared))
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared;
