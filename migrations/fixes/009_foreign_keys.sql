-- Fix for the pre-migration check `foreign_keys` of migration 009.
--
-- What is wrong: a table that is not Mandate's has a foreign key to a key that becomes another one: after the migration an id
-- alone says nothing, organization_id belongs to it.
-- What this does: prints the commands that drop each such key, and as a comment what it was. Make it again after the migration
-- with (organization_id, ...), which the table needs a column for.
--
--   psql -h localhost -U postgres mandate < fixes/009_foreign_keys.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT format('ALTER TABLE %s DROP CONSTRAINT %I; -- %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
FROM pg_constraint c
JOIN pg_class mine ON mine.oid = c.conrelid
JOIN pg_class theirs ON theirs.oid = c.confrelid
WHERE c.contype = 'f' AND theirs.relnamespace = 'mandate'::regnamespace
  AND theirs.relname IN ('scopes', 'policy_snapshots', 'decision_events', 'verdict_events', 'audit_timeline_entries',
                         'mandate_specs', 'identity_map')
  AND NOT (mine.relnamespace = 'mandate'::regnamespace
           AND mine.relname IN ('scopes', 'policy_snapshots', 'decision_events', 'verdict_events', 'audit_timeline_entries',
                                'mandate_specs', 'identity_map', 'spec_events'))
ORDER BY 1;
