-- What the engine's spec of 008 reads beside the tables. Safe to repeat.
CREATE SCHEMA IF NOT EXISTS mandate_conductor;

-- Names that a person gave to domains; the columns that the SQL files know, too.
CREATE TABLE IF NOT EXISTS mandate_conductor.migration_008_domain_names (
    organization_id uuid, old_name text NOT NULL, new_name text NOT NULL
);

-- Readable ids that scopes had before a rollback: they get them again.
CREATE TABLE IF NOT EXISTS mandate_conductor.migration_008_scope_names (
    scope_id uuid PRIMARY KEY, new_scope_id text NOT NULL UNIQUE
);

-- Triggers that the swap made on tables that stay where they are, for a rollback to take away.
CREATE TABLE IF NOT EXISTS mandate_conductor.migration_008_made (
    kind text NOT NULL, name text NOT NULL, on_table text NOT NULL DEFAULT '', PRIMARY KEY (kind, name, on_table)
);

-- The more particular name outweighs the more general one.
CREATE OR REPLACE FUNCTION mandate_conductor.migration_008_domain_name(organization uuid, domain uuid, name text)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT COALESCE((
        SELECT m.new_name
        FROM (SELECT (to_jsonb(n) ->> 'domain_id')::uuid AS domain_id, n.organization_id, n.old_name, n.new_name
              FROM mandate_conductor.migration_008_domain_names n) m
        WHERE m.old_name = $3 AND (m.organization_id IS NULL OR m.organization_id = $1)
          AND (m.domain_id IS NULL OR m.domain_id = $2)
        ORDER BY m.domain_id NULLS LAST, m.organization_id NULLS LAST, m.new_name COLLATE "C" LIMIT 1), $3)
$$;

-- One segment of a scope id, with its dot; '' for an absent selector.
CREATE OR REPLACE FUNCTION mandate_conductor.migration_008_segment(selector text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN selector IS NULL OR selector = '' THEN ''
                ELSE '.' || pg_catalog.regexp_replace(pg_catalog.lower(selector COLLATE "C"), '[^a-z0-9_-]', '-', 'g')
           END
$$;
