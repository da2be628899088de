-- Fix for the pre-migration check `domain_id_null`.
--
-- What is wrong: a row does not say which domain it belongs to, so version 8, where `domain` is never NULL, has no
-- place for it.
-- What this does: takes the domain from, in this order, the row's own `domain` text within its organization, the
-- decision it belongs to, its scope (a verdict), its verdicts (a decision or snapshot, when they all agree), or the
-- `scope_domain` selector (a scope). A domain of another organization is never taken.
-- What it cannot know: the domain of a row that none of these speaks for. Such rows stay and are listed; give them a
-- domain by hand, or record a decision about them.
-- Old and new values are kept in mandate_conductor.repairs.
--
--   psql -h localhost -U postgres mandate < fixes/008_domain_id_null.sql

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

-- The domain that a name means in an organization; without an organization only if the name is unique.
CREATE OR REPLACE FUNCTION pg_temp.named(org uuid, text_name text) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN count(*) = 1 THEN (array_agg(domain_id))[1] END FROM mandate.domains
    WHERE name = text_name AND (org IS NULL OR organization_id = org)
$$;

CREATE OR REPLACE FUNCTION pg_temp.agreed(candidates uuid[], org uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN count(DISTINCT d.domain_id) = 1 THEN (array_agg(d.domain_id))[1] END
    FROM unnest(candidates) c JOIN mandate.domains d ON d.domain_id = c
    WHERE org IS NULL OR d.organization_id = org
$$;

INSERT INTO pg_temp.repair
SELECT 'scopes', s.scope_id::text, 'domain_id', NULL,
       COALESCE(pg_temp.named(s.organization_id, to_jsonb(s) ->> 'domain'),
                pg_temp.named(s.organization_id, s.scope_domain),
                pg_temp.agreed((SELECT array_agg(DISTINCT v.domain_id) FROM mandate.verdict_events v
                                WHERE v.scope_id = s.scope_id), s.organization_id))
FROM mandate.scopes s WHERE s.domain_id IS NULL;

INSERT INTO pg_temp.repair
SELECT 'policy_snapshots', p.snapshot_id::text, 'domain_id', NULL,
       COALESCE(pg_temp.named(p.organization_id, to_jsonb(p) ->> 'domain'),
                pg_temp.agreed((SELECT array_agg(DISTINCT v.domain_id) FROM mandate.verdict_events v
                                WHERE v.snapshot_id = p.snapshot_id), p.organization_id))
FROM mandate.policy_snapshots p WHERE p.domain_id IS NULL;

INSERT INTO pg_temp.repair
SELECT 'decision_events', d.decision_id::text, 'domain_id', NULL,
       COALESCE(pg_temp.named(d.organization_id, to_jsonb(d) ->> 'domain'),
                pg_temp.agreed((SELECT array_agg(DISTINCT v.domain_id) FROM mandate.verdict_events v
                                WHERE v.decision_id = d.decision_id), d.organization_id),
                pg_temp.agreed((SELECT array_agg(DISTINCT a.domain_id) FROM mandate.audit_timeline_entries a
                                WHERE a.decision_id = d.decision_id), d.organization_id))
FROM mandate.decision_events d WHERE d.domain_id IS NULL;

-- A decision that has just got its domain speaks for its verdicts and its timeline.
CREATE TEMP VIEW decision_domains AS
SELECT d.decision_id, COALESCE(d.domain_id, r.new_value::uuid) AS domain_id
FROM mandate.decision_events d
LEFT JOIN pg_temp.repair r ON r.table_name = 'decision_events' AND r.row_key = d.decision_id::text;

INSERT INTO pg_temp.repair
SELECT 'verdict_events', v.verdict_id::text, 'domain_id', NULL,
       COALESCE(pg_temp.named(v.organization_id, to_jsonb(v) ->> 'domain'),
                pg_temp.agreed(ARRAY[d.domain_id], v.organization_id),
                pg_temp.agreed((SELECT array_agg(s.domain_id) FROM mandate.scopes s WHERE s.scope_id = v.scope_id),
                               v.organization_id))
FROM mandate.verdict_events v LEFT JOIN pg_temp.decision_domains d USING (decision_id) WHERE v.domain_id IS NULL;

INSERT INTO pg_temp.repair
SELECT 'audit_timeline_entries', a.entry_id::text, 'domain_id', NULL,
       COALESCE(pg_temp.named(a.organization_id, to_jsonb(a) ->> 'domain'),
                pg_temp.agreed(ARRAY[d.domain_id], a.organization_id))
FROM mandate.audit_timeline_entries a LEFT JOIN pg_temp.decision_domains d USING (decision_id)
WHERE a.domain_id IS NULL;

DROP VIEW pg_temp.decision_domains;
DELETE FROM pg_temp.repair WHERE new_value IS NULL;

-- Apply: each table's mutation trigger is off for its own UPDATE only, and then as it was.
DO $$
DECLARE
    item record;
    guard record;
BEGIN
    FOR item IN SELECT DISTINCT r.table_name, r.column_name, k.attname AS key_column,
                       format_type(c.atttypid, c.atttypmod) AS data_type
                FROM pg_temp.repair r
                JOIN pg_index i ON i.indrelid = to_regclass('mandate.' || r.table_name) AND i.indisprimary
                JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = i.indkey[0]
                JOIN pg_attribute c ON c.attrelid = i.indrelid AND c.attname = r.column_name
                ORDER BY 1, 2 LOOP
        SELECT tgname, tgenabled INTO guard FROM pg_trigger
        WHERE tgrelid = to_regclass('mandate.' || item.table_name) AND tgname ~ '^prevent_.*_mutation$'
          AND tgenabled <> 'D';
        IF guard.tgname IS NOT NULL THEN
            EXECUTE format('ALTER TABLE mandate.%I DISABLE TRIGGER %I', item.table_name, guard.tgname);
        END IF;
        EXECUTE format('UPDATE mandate.%1$I t SET %2$I = r.new_value::%3$s FROM pg_temp.repair r '
                       'WHERE r.table_name = %1$L AND r.column_name = %2$L AND r.row_key = t.%4$I::text',
                       item.table_name, item.column_name, item.data_type, item.key_column);
        IF guard.tgname IS NOT NULL THEN
            EXECUTE format('ALTER TABLE mandate.%I ENABLE %s TRIGGER %I', item.table_name,
                           CASE guard.tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END,
                           guard.tgname);
        END IF;
    END LOOP;
END
$$;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'domain_id_null', table_name, row_key, column_name, old_value, new_value FROM pg_temp.repair
ORDER BY table_name, row_key, column_name;

\echo 'Changed (table | row | column | old | new):'
SELECT table_name, row_key, column_name, COALESCE(old_value, 'NULL'), COALESCE(new_value, 'NULL')
FROM pg_temp.repair ORDER BY table_name, row_key, column_name;

\echo 'Left as they are, for a person to decide (table | row):'
SELECT 'scopes', scope_id::text FROM mandate.scopes WHERE domain_id IS NULL
UNION ALL SELECT 'policy_snapshots', snapshot_id::text FROM mandate.policy_snapshots WHERE domain_id IS NULL
UNION ALL SELECT 'decision_events', decision_id::text FROM mandate.decision_events WHERE domain_id IS NULL
UNION ALL SELECT 'verdict_events', verdict_id::text FROM mandate.verdict_events WHERE domain_id IS NULL
UNION ALL SELECT 'audit_timeline_entries', entry_id::text FROM mandate.audit_timeline_entries WHERE domain_id IS NULL;

COMMIT;
