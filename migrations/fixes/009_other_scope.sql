-- Fix for the pre-migration check `other_scope` of migration 009.
--
-- What is wrong: a verdict is bound to a scope of another organization or domain.
-- What this does: lists them, beside what they point at. It changes nothing: these rows are evidence, and which of the two is
-- wrong cannot be known from the data.
-- What to do: the service never writes such a row, so find out who did (application_name and role in PostgreSQL's log at its
-- created_at). Then put right the row that is wrong, as the owner of the tables and with its mutation trigger off, and write
-- down that you did; or stay at version 8, which holds it as it is.
--
--   psql -h localhost -U postgres mandate < fixes/009_other_scope.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

\echo 'Verdicts (row | organization | domain | its scope | organization | domain | written at):'
SELECT v.verdict_id, v.organization_id, v.domain, v.scope_id, s.organization_id, s.domain, v.created_at
FROM mandate.verdict_events v LEFT JOIN mandate.scopes s USING (scope_id)
WHERE v.scope_id IS NOT NULL AND (v.organization_id, v.domain) IS DISTINCT FROM (s.organization_id, s.domain)
ORDER BY v.created_at, v.verdict_id;
