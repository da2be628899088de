-- Fix for the pre-migration check `other_decision` of migration 009.
--
-- What is wrong: a verdict or a timeline entry is in another organization or domain than the decision that it is about. In
-- version 9 the decision is part of its key, and there is no such decision.
-- What this does: lists them, beside what they point at. It changes nothing: these rows are evidence, and which of the two is
-- wrong cannot be known from the data.
-- What to do: the service never writes such a row, so find out who did (application_name and role in PostgreSQL's log at its
-- created_at). Then put right the row that is wrong, as the owner of the tables and with its mutation trigger off, and write
-- down that you did; or stay at version 8, which holds it as it is.
--
--   psql -h localhost -U postgres mandate < fixes/009_other_decision.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

\echo 'Verdicts and entries (table | row | organization | domain | its decision | organization | domain | written at):'
SELECT 'verdict_events', v.verdict_id, v.organization_id, v.domain, v.decision_id, d.organization_id, d.domain, v.created_at
FROM mandate.verdict_events v LEFT JOIN mandate.decision_events d USING (decision_id)
WHERE (v.organization_id, v.domain) IS DISTINCT FROM (d.organization_id, d.domain)
UNION ALL
SELECT 'audit_timeline_entries', t.entry_id, t.organization_id, t.domain, t.decision_id, d.organization_id, d.domain, t.created_at
FROM mandate.audit_timeline_entries t LEFT JOIN mandate.decision_events d USING (decision_id)
WHERE (t.organization_id, t.domain) IS DISTINCT FROM (d.organization_id, d.domain)
ORDER BY 8, 2;
