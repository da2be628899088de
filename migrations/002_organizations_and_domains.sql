-- 002: whose record it is. Organizations own domains; scopes, snapshots and events belong to one of each.
-- The new columns are nullable: rows recorded before this migration have no owner.

\set ON_ERROR_STOP on

BEGIN;

CREATE TABLE mandate.organizations (
    organization_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    description text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE mandate.domains (
    domain_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES mandate.organizations (organization_id),
    name text NOT NULL,
    description text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name)
);

CREATE TRIGGER prevent_organizations_mutation BEFORE UPDATE OR DELETE ON mandate.organizations
    FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();
CREATE TRIGGER prevent_domains_mutation BEFORE UPDATE OR DELETE ON mandate.domains
    FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

ALTER TABLE mandate.scopes
    ADD COLUMN organization_id uuid REFERENCES mandate.organizations (organization_id),
    ADD COLUMN domain_id uuid REFERENCES mandate.domains (domain_id),
    ADD COLUMN owning_team text,
    ADD COLUMN owner_contact text,
    ADD COLUMN description text;
CREATE INDEX idx_scopes_organization_id ON mandate.scopes (organization_id);
CREATE INDEX idx_scopes_domain_id ON mandate.scopes (domain_id);

ALTER TABLE mandate.policy_snapshots
    ADD COLUMN organization_id uuid REFERENCES mandate.organizations (organization_id),
    ADD COLUMN domain_id uuid REFERENCES mandate.domains (domain_id);
CREATE INDEX idx_policy_snapshots_organization_id ON mandate.policy_snapshots (organization_id);
CREATE INDEX idx_policy_snapshots_domain_id ON mandate.policy_snapshots (domain_id);

ALTER TABLE mandate.decision_events
    ADD COLUMN organization_id uuid REFERENCES mandate.organizations (organization_id),
    ADD COLUMN domain_id uuid REFERENCES mandate.domains (domain_id);
CREATE INDEX idx_decision_events_organization_id ON mandate.decision_events (organization_id);
CREATE INDEX idx_decision_events_domain_id ON mandate.decision_events (domain_id);

ALTER TABLE mandate.verdict_events
    ADD COLUMN organization_id uuid REFERENCES mandate.organizations (organization_id),
    ADD COLUMN domain_id uuid REFERENCES mandate.domains (domain_id);
CREATE INDEX idx_verdict_events_organization_id ON mandate.verdict_events (organization_id);
CREATE INDEX idx_verdict_events_domain_id ON mandate.verdict_events (domain_id);

ALTER TABLE mandate.audit_timeline_entries
    ADD COLUMN organization_id uuid REFERENCES mandate.organizations (organization_id),
    ADD COLUMN domain_id uuid REFERENCES mandate.domains (domain_id);
CREATE INDEX idx_audit_timeline_organization_id ON mandate.audit_timeline_entries (organization_id);
CREATE INDEX idx_audit_timeline_domain_id ON mandate.audit_timeline_entries (domain_id);

COMMIT;
