-- Fix for the pre-migration check `policy_scope_unknown`.
--
-- What is wrong: a policy is bound to a scope_id that is not in mandate.scopes. After the migration it could not be
-- rewritten and the policy would silently apply to nothing, as it does today.
-- What this does: inserts the missing scope under its own UUID in the snapshot's domain. Its only selectors are that
-- domain and a tenant called `recovered-<uuid>`, so that the policy goes on matching no decision to come.
-- What it cannot know: the scope's real selectors; and anything about a scope_id that is not a UUID: such policies are
-- listed (a snapshot is never edited, so issue a new one with the right scope_id, and mend the old one by hand).
--
--   psql -h localhost -U postgres mandate < fixes/008_policy_scope_unknown.sql

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
SELECT x.hex::uuid AS scope_id, count(DISTINCT x.domain_id) AS domains, (array_agg(DISTINCT x.domain_id))[1] AS domain_id,
       (array_agg(DISTINCT d.organization_id))[1] AS organization_id
FROM (SELECT p.domain_id, lower(translate(e ->> 'scope_id', '{}-', '')) AS hex
      FROM mandate.policy_snapshots p CROSS JOIN LATERAL jsonb_array_elements(p.policies) e) x
LEFT JOIN mandate.domains d ON d.domain_id = x.domain_id
WHERE x.hex ~ '^[0-9a-f]{32}$'
  AND NOT EXISTS (SELECT FROM mandate.scopes s WHERE translate(s.scope_id::text, '-', '') = x.hex)
GROUP BY x.hex;

WITH new_scopes AS (
    INSERT INTO mandate.scopes (scope_id, organization_id, domain_id, scope_domain, tenant, description)
    SELECT m.scope_id, m.organization_id, m.domain_id, d.name, 'recovered-' || m.scope_id, 'Recovered before migration 008: a policy named this scope and it was missing'
    FROM pg_temp.missing m JOIN mandate.domains d ON d.domain_id = m.domain_id
    WHERE m.domains = 1 AND d.organization_id = m.organization_id
    RETURNING *
)
INSERT INTO pg_temp.repair
SELECT 'scopes', scope_id::text, '(row)', NULL, to_jsonb(n)::text FROM new_scopes n;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'policy_scope_unknown', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'policy_snapshots', p.snapshot_id, e ->> 'id', e ->> 'scope_id'
FROM mandate.policy_snapshots p CROSS JOIN LATERAL jsonb_array_elements(p.policies) e
WHERE e ->> 'scope_id' IS NOT NULL
  AND NOT EXISTS (SELECT FROM mandate.scopes s
                  WHERE translate(s.scope_id::text, '-', '') = lower(translate(e ->> 'scope_id', '{}-', '')));

COMMIT;
