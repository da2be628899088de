-- Fix for the pre-migration check `scope_id_unusable`.
--
-- What is wrong: two scopes would get the same readable id even with their whole UUID in it, or the id would be longer
-- than a B-tree key may be (about 2,600 bytes). Both take selectors that were made for it.
-- What this does: lists the scopes with long selectors. Give such a scope shorter selectors, with its mutation trigger
-- disabled in the same transaction; which, only you can say.
--
--   psql -h localhost -U postgres mandate < fixes/008_scope_id_unusable.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT scope_id, octet_length(concat(environment, service, agent, scope_system, tenant)) AS bytes FROM mandate.scopes
ORDER BY 2 DESC, 1 LIMIT 20;
