-- Fix for the pre-migration check `leftovers` of migration 009.
--
-- What is wrong: half of version 9 stands in a version 8 database, or migration 008 is not finalized.
-- What this does: prints what there is, and the command that ends it. A schema of the conductor's engine is ended by the
-- conductor, which knows what is still needed: mandate finalize 008 (only when you will not go back to version 7), mandate run
-- 009, mandate rollback 009 or mandate abort 009; `mandate check 009` says which.
-- What it cannot know: who made the rest, and whether its rows are needed. Look before you drop.
--
--   psql -h localhost -U postgres mandate < fixes/009_leftovers.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT 'schema ' || nspname, CASE WHEN nspname ~ '008$' THEN 'mandate finalize 008, or mandate rollback 008'
                                  ELSE 'mandate run 009 goes on with it, mandate abort 009 drops it' END
FROM pg_namespace WHERE nspname ~ '^mandate_(rekey|new|pre)_00[89]$'
UNION ALL
SELECT 'mandate.spec_events, without decision_events.received_at',
       'ALTER TABLE mandate.spec_events SET SCHEMA public; -- or DROP TABLE mandate.spec_events;'
WHERE to_regclass('mandate.spec_events') IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('mandate.decision_events')
                  AND attname = 'received_at' AND NOT attisdropped)
UNION ALL
SELECT 'mandate.decision_events.received_at, without mandate.spec_events',
       'ALTER TABLE mandate.decision_events DROP COLUMN received_at;'
FROM pg_attribute
WHERE attrelid = to_regclass('mandate.decision_events') AND attname = 'received_at' AND NOT attisdropped
  AND to_regclass('mandate.spec_events') IS NULL
ORDER BY 1;
