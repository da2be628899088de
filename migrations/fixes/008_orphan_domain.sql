-- Fix for the pre-migration check `orphan_domain`.
--
-- What is wrong: rows point at a domain that is not in mandate.domains (its foreign key was absent or not validated).
-- What this does: inserts the missing domain under its own UUID, in the organization that its rows name, called what
-- their `domain` text says when they all say the same and that name is free, else `recovered-` and the first 8 hex
-- digits of the UUID.
-- What it cannot know: what the domain was really called, and its organization when its rows disagree about it; such
-- rows stay and are listed. Rename a placeholder with the mapping in 008.toml.
--
--   psql -h localhost -U postgres mandate < fixes/008_orphan_domain.sql

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
SELECT domain_id, (array_agg(DISTINCT organization_id))[1] AS organization_id,
       count(DISTINCT organization_id) AS organizations,
       CASE WHEN count(DISTINCT NULLIF(domain, '')) = 1 THEN min(NULLIF(domain, '')) END AS domain
FROM (    SELECT organization_id, domain_id, to_jsonb(r) ->> 'domain' AS domain FROM mandate.scopes r
              WHERE NOT EXISTS (SELECT FROM mandate.domains d WHERE d.domain_id = r.domain_id)
    UNION ALL SELECT organization_id, domain_id, to_jsonb(r) ->> 'domain' AS domain FROM mandate.policy_snapshots r
              WHERE NOT EXISTS (SELECT FROM mandate.domains d WHERE d.domain_id = r.domain_id)
    UNION ALL SELECT organization_id, domain_id, to_jsonb(r) ->> 'domain' AS domain FROM mandate.decision_events r
              WHERE NOT EXISTS (SELECT FROM mandate.domains d WHERE d.domain_id = r.domain_id)
    UNION ALL SELECT organization_id, domain_id, to_jsonb(r) ->> 'domain' AS domain FROM mandate.verdict_events r
              WHERE NOT EXISTS (SELECT FROM mandate.domains d WHERE d.domain_id = r.domain_id)
    UNION ALL SELECT organization_id, domain_id, to_jsonb(r) ->> 'domain' AS domain FROM mandate.audit_timeline_entries r
              WHERE NOT EXISTS (SELECT FROM mandate.domains d WHERE d.domain_id = r.domain_id)) r
WHERE domain_id IS NOT NULL
GROUP BY domain_id;
-- Nobody says which organization: there may be only one.
UPDATE pg_temp.missing SET organizations = 1, organization_id = (SELECT organization_id FROM mandate.organizations)
WHERE organizations = 0 AND (SELECT count(*) FROM mandate.organizations) = 1;

-- Two missing domains of one name: only the first may take it.
WITH new_domains AS (
    INSERT INTO mandate.domains (domain_id, organization_id, name, description)
    SELECT m.domain_id, m.organization_id,
           CASE WHEN m.domain IS NOT NULL
                 AND NOT EXISTS (SELECT FROM mandate.domains d
                                 WHERE d.organization_id = m.organization_id AND d.name = m.domain)
                 AND NOT EXISTS (SELECT FROM pg_temp.missing o WHERE o.organization_id = m.organization_id
                                   AND o.domain = m.domain AND o.domain_id < m.domain_id)
                THEN m.domain ELSE 'recovered-' || left(m.domain_id::text, 8) END,
           'Recovered before migration 008: rows pointed at this domain and it was missing'
    FROM pg_temp.missing m
    WHERE m.organizations = 1
      AND EXISTS (SELECT FROM mandate.organizations o WHERE o.organization_id = m.organization_id)
    RETURNING *
)
INSERT INTO pg_temp.repair
SELECT 'domains', domain_id::text, '(row)', NULL, to_jsonb(n)::text FROM new_domains n;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'orphan_domain', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'domains', domain_id FROM pg_temp.missing m
WHERE NOT EXISTS (SELECT FROM mandate.domains d WHERE d.domain_id = m.domain_id);

COMMIT;
