-- Fix for the pre-migration check `no_organization` of migration 009.
--
-- What is wrong: an old UUID of a domain or scope is kept without the organization that it belongs to; in version 9 it is part of
-- the key.
-- What this does: sets organization_id to that of the scope with the new key, or of the one domain with that name.
-- What it cannot know: the organization of a domain name that several have or none has, or of a scope that is gone. Such rows
-- stay, and are listed.
-- Old and new values are kept in mandate_conductor.repairs.
--
--   psql -h localhost -U postgres mandate < fixes/009_no_organization.sql

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

CREATE TEMP TABLE repair ON COMMIT DROP AS
SELECT m.kind, m.old_key, (array_agg(o.organization_id))[1] AS organization_id
FROM mandate.identity_map m
JOIN (
    SELECT 'domain' AS kind, domain AS key, organization_id FROM mandate.domains
    UNION ALL
    SELECT 'scope', scope_id, organization_id FROM mandate.scopes
) o ON o.kind = m.kind AND o.key = m.new_key
WHERE m.organization_id IS NULL
GROUP BY m.kind, m.old_key
HAVING count(*) = 1;

-- The table's mutation trigger is off for this UPDATE only, and then as it was.
DO $$
DECLARE
    guard record;
BEGIN
    SELECT tgname, tgenabled INTO guard FROM pg_trigger
    WHERE tgrelid = 'mandate.identity_map'::regclass AND tgname ~ '^prevent_.*_mutation$' AND tgenabled <> 'D';
    IF guard.tgname IS NOT NULL THEN
        EXECUTE format('ALTER TABLE mandate.identity_map DISABLE TRIGGER %I', guard.tgname);
    END IF;
    UPDATE mandate.identity_map m SET organization_id = r.organization_id
    FROM pg_temp.repair r WHERE r.kind = m.kind AND r.old_key = m.old_key;
    IF guard.tgname IS NOT NULL THEN
        EXECUTE format('ALTER TABLE mandate.identity_map ENABLE %s TRIGGER %I',
                       CASE guard.tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END, guard.tgname);
    END IF;
END
$$;

INSERT INTO mandate_conductor.repairs (check_id, table_name, row_key, column_name, old_value, new_value)
SELECT 'no_organization', 'identity_map', kind || ' ' || old_key, 'organization_id', NULL, organization_id::text
FROM pg_temp.repair ORDER BY kind, old_key;

\echo 'Changed (table | row | column | old | new):'
SELECT 'identity_map', kind || ' ' || old_key, 'organization_id', 'NULL', organization_id
FROM pg_temp.repair ORDER BY kind, old_key;

\echo 'Left as they are, for a person to decide (table | row | new key):'
SELECT 'identity_map', kind || ' ' || old_key, new_key FROM mandate.identity_map WHERE organization_id IS NULL
ORDER BY kind, old_key;

COMMIT;
