-- The plain way to do what 008 does: add columns, update every row of every table, swap columns, index.
-- It ends in the same columns, keys and values; it is what migrate.py measures against.
\set ON_ERROR_STOP on
\set QUIET on
BEGIN;
SET LOCAL search_path = mandate, public;
SET LOCAL maintenance_work_mem = '256MB';

CREATE TEMP TABLE domain_map ON COMMIT DROP AS
    SELECT domain_id, organization_id, name AS domain FROM domains;
CREATE TEMP TABLE scope_map ON COMMIT DROP AS
WITH readable AS (
    SELECT s.scope_id, concat_ws('.', d.domain, nullif(s.environment, ''), nullif(s.service, ''),
               nullif(s.agent, ''), nullif(s.scope_system, ''), nullif(s.tenant, '')) AS id, d.domain
    FROM scopes s JOIN domain_map d USING (domain_id)
), slugged AS (
    SELECT scope_id, regexp_replace(lower(CASE WHEN id = domain THEN id || '.default' ELSE id END),
               '[^a-z0-9_.-]', '-', 'g') AS id
    FROM readable
)
SELECT scope_id, CASE WHEN count(*) OVER (PARTITION BY id) > 1
           THEN id || '-' || left(scope_id::text, 8) ELSE id END AS new_id
FROM slugged;
ANALYZE domain_map, scope_map;

ALTER TABLE domains DISABLE TRIGGER USER;
ALTER TABLE scopes DISABLE TRIGGER USER;
ALTER TABLE policy_snapshots DISABLE TRIGGER USER;
ALTER TABLE decision_events DISABLE TRIGGER USER;
ALTER TABLE verdict_events DISABLE TRIGGER USER;
ALTER TABLE audit_timeline_entries DISABLE TRIGGER USER;

ALTER TABLE scopes ADD COLUMN new_domain text, ADD COLUMN new_scope_id text;
ALTER TABLE policy_snapshots ADD COLUMN new_domain text;
ALTER TABLE decision_events ADD COLUMN new_domain text;
ALTER TABLE verdict_events ADD COLUMN new_domain text, ADD COLUMN new_scope_id text;
ALTER TABLE audit_timeline_entries ADD COLUMN new_domain text;

UPDATE scopes t SET new_domain = d.domain, new_scope_id = s.new_id
FROM domain_map d, scope_map s WHERE d.domain_id = t.domain_id AND s.scope_id = t.scope_id;
UPDATE policy_snapshots t SET new_domain = d.domain FROM domain_map d WHERE d.domain_id = t.domain_id;
UPDATE decision_events t SET new_domain = d.domain FROM domain_map d WHERE d.domain_id = t.domain_id;
UPDATE verdict_events t SET new_domain = d.domain, new_scope_id = s.new_id
FROM verdict_events v
JOIN domain_map d ON d.domain_id = v.domain_id
LEFT JOIN scope_map s ON s.scope_id = v.scope_id
WHERE v.verdict_id = t.verdict_id;
UPDATE audit_timeline_entries t SET new_domain = d.domain FROM domain_map d WHERE d.domain_id = t.domain_id;

ALTER TABLE verdict_events DROP COLUMN scope_id, DROP COLUMN domain_id, DROP COLUMN IF EXISTS domain;
ALTER TABLE audit_timeline_entries DROP COLUMN domain_id;
ALTER TABLE decision_events DROP COLUMN domain_id;
ALTER TABLE policy_snapshots DROP COLUMN domain_id;
ALTER TABLE scopes DROP COLUMN scope_id CASCADE, DROP COLUMN domain_id;
ALTER TABLE domains DROP COLUMN domain_id CASCADE;
ALTER TABLE domains RENAME COLUMN name TO domain;
ALTER TABLE scopes RENAME COLUMN new_domain TO domain;
ALTER TABLE scopes RENAME COLUMN new_scope_id TO scope_id;
ALTER TABLE policy_snapshots RENAME COLUMN new_domain TO domain;
ALTER TABLE decision_events RENAME COLUMN new_domain TO domain;
ALTER TABLE verdict_events RENAME COLUMN new_domain TO domain;
ALTER TABLE verdict_events RENAME COLUMN new_scope_id TO scope_id;
ALTER TABLE audit_timeline_entries RENAME COLUMN new_domain TO domain;

ALTER TABLE domains ADD PRIMARY KEY (organization_id, domain);
ALTER TABLE scopes ADD PRIMARY KEY (scope_id);
ALTER TABLE scopes ALTER COLUMN domain SET NOT NULL,
    ADD FOREIGN KEY (organization_id, domain) REFERENCES domains;
ALTER TABLE policy_snapshots ALTER COLUMN domain SET NOT NULL,
    ADD FOREIGN KEY (organization_id, domain) REFERENCES domains;
ALTER TABLE decision_events ALTER COLUMN domain SET NOT NULL,
    ADD FOREIGN KEY (organization_id, domain) REFERENCES domains;
ALTER TABLE verdict_events ALTER COLUMN domain SET NOT NULL,
    ADD FOREIGN KEY (organization_id, domain) REFERENCES domains,
    ADD FOREIGN KEY (scope_id) REFERENCES scopes;
ALTER TABLE audit_timeline_entries ALTER COLUMN domain SET NOT NULL,
    ADD FOREIGN KEY (organization_id, domain) REFERENCES domains;
CREATE INDEX ON decision_events (organization_id, domain);
CREATE INDEX ON verdict_events (organization_id, domain);
CREATE INDEX ON verdict_events (scope_id);
CREATE INDEX ON audit_timeline_entries (organization_id, domain);

ALTER TABLE domains ENABLE TRIGGER USER;
ALTER TABLE scopes ENABLE TRIGGER USER;
ALTER TABLE policy_snapshots ENABLE TRIGGER USER;
ALTER TABLE decision_events ENABLE TRIGGER USER;
ALTER TABLE verdict_events ENABLE TRIGGER USER;
ALTER TABLE audit_timeline_entries ENABLE TRIGGER USER;
COMMIT;
