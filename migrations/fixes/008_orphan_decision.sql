-- Fix for the pre-migration check `orphan_decision`.
--
-- What is wrong: verdicts or timeline entries belong to a decision that is not in mandate.decision_events.
-- What this does: inserts the missing decision under its own UUID with what its timeline knows (intent, stage, actor,
-- target), else `recovered`; attributed as they are, at their earliest time, its context saying that it was recovered.
-- What it cannot know: the decision's context and scope. When its rows belong to several domains it stays missing and
-- is listed.
--
--   psql -h localhost -U postgres mandate < fixes/008_orphan_decision.sql

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
SELECT decision_id, count(DISTINCT domain_id) AS domains, (array_agg(DISTINCT domain_id))[1] AS domain_id,
       (array_agg(DISTINCT organization_id))[1] AS organization_id, min(timestamp) AS timestamp,
       min(intent) AS intent, min(stage) AS stage, min(actor) AS actor, min(target) AS target
FROM (SELECT decision_id, domain_id, organization_id, timestamp, intent, stage, actor, target
      FROM mandate.audit_timeline_entries
      UNION ALL SELECT decision_id, domain_id, organization_id, timestamp, NULL, NULL, NULL, NULL
      FROM mandate.verdict_events) r
WHERE NOT EXISTS (SELECT FROM mandate.decision_events d WHERE d.decision_id = r.decision_id)
GROUP BY decision_id;

WITH new_decisions AS (
    INSERT INTO mandate.decision_events
        (decision_id, intent, stage, actor, target, context, timestamp, organization_id, domain_id)
    SELECT decision_id, COALESCE(intent, 'recovered'), COALESCE(stage, 'proposed'), COALESCE(actor, 'recovered'),
           COALESCE(target, 'recovered'), '{"recovered": "before migration 008"}', timestamp, organization_id, domain_id
    FROM pg_temp.missing WHERE domains = 1
    RETURNING *
)
INSERT INTO pg_temp.repair
SELECT 'decision_events', decision_id::text, '(row)', NULL, to_jsonb(n)::text FROM new_decisions n;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'orphan_decision', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'decision_events', decision_id FROM pg_temp.missing WHERE domains <> 1;

COMMIT;
