-- Fix for the pre-migration check `orphan_snapshot`.
--
-- What is wrong: verdicts were given under a policy snapshot that is not in mandate.policy_snapshots.
-- What this does: inserts the missing snapshot under its own UUID as version 0 without policies, attributed as its
-- verdicts are, at the earliest of their times.
-- What it cannot know: which policies it held: those verdicts cannot be replayed. When the verdicts belong to several
-- domains it stays missing and is listed.
--
--   psql -h localhost -U postgres mandate < fixes/008_orphan_snapshot.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS mandate_conductor;
CREATE TABLE IF NOT EXISTS mandate_conductor.repairs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    check_id text NOT NULL, table_name text NOT NULL, row_key text NOT NULL, column_name text NOT NULL,
    old_value text, new_value text,
    repaired_at timestamptz NOT NULL DEFAULT now(), repaired_by text NOT NULL DEFAULT current_user
);

CREATE TEMP TABLE repair (table_name text, row_key text, column_name text, old_value text, new_value text)
    ON COMMIT DROP;

CREATE TEMP TABLE missing ON COMMIT DROP AS
SELECT v.snapshot_id, count(DISTINCT v.domain_id) AS domains, (array_agg(DISTINCT v.domain_id))[1] AS domain_id,
       (array_agg(DISTINCT v.organization_id))[1] AS organization_id, min(v.timestamp) AS created_at
FROM mandate.verdict_events v
WHERE NOT EXISTS (SELECT FROM mandate.policy_snapshots p WHERE p.snapshot_id = v.snapshot_id)
GROUP BY v.snapshot_id;

WITH new_snapshots AS (
    INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, domain_id, created_at)
    SELECT snapshot_id, 0, '[]', organization_id, domain_id, created_at FROM pg_temp.missing WHERE domains = 1
    RETURNING *
)
INSERT INTO pg_temp.repair
SELECT 'policy_snapshots', snapshot_id::text, '(row)', NULL, to_jsonb(n)::text FROM new_snapshots n;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'orphan_snapshot', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'policy_snapshots', snapshot_id FROM pg_temp.missing WHERE domains <> 1;

COMMIT;
