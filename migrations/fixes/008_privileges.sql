-- Fix for the pre-migration check `privileges`.
--
-- What is wrong: the role that runs the migration may not alter the tables: only their owner, or a member of the role
-- that owns them, may.
-- What this does: prints the commands; a superuser or the owner runs one of them.
--
--   psql -h localhost -U postgres mandate < fixes/008_privileges.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT DISTINCT format('GRANT %I TO %I;', c.relowner::regrole, current_user)
FROM pg_class c WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p')
  AND NOT pg_has_role(c.relowner, 'USAGE')
UNION ALL
SELECT format('GRANT CREATE ON SCHEMA mandate TO %I;', current_user)
WHERE NOT has_schema_privilege('mandate', 'CREATE');
