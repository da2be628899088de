-- 001: the record itself. Decisions, verdicts, the audit timeline, the policies that were in force, and the scopes
-- that policies are bound to. Append-only from the first day: every table refuses UPDATE and DELETE.

\set ON_ERROR_STOP on

BEGIN;

CREATE SCHEMA mandate;

CREATE TYPE mandate.stage AS ENUM ('proposed', 'pre_commit', 'executed');
CREATE TYPE mandate.verdict AS ENUM ('ALLOW', 'PAUSE', 'BLOCK', 'OBSERVE');
CREATE TYPE mandate.event_source AS ENUM ('system', 'agent', 'human');
CREATE TYPE mandate.authority_level AS ENUM ('system', 'agent', 'human');

CREATE FUNCTION mandate.prevent_mutation() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'IMMUTABILITY VIOLATION: mandate.% is append-only, % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation',
              HINT = 'Append a new row that supersedes the old one.';
END
$$;

CREATE TABLE mandate.scopes (
    scope_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    scope_domain text,
    service text,
    agent text,
    scope_system text,
    environment text,
    tenant text,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A NULL selector matches anything; for uniqueness it counts as ''.
CREATE UNIQUE INDEX scopes_selectors_key ON mandate.scopes (
    COALESCE(scope_domain, ''), COALESCE(service, ''), COALESCE(agent, ''),
    COALESCE(scope_system, ''), COALESCE(environment, ''), COALESCE(tenant, '')
);

CREATE TABLE mandate.policy_snapshots (
    snapshot_id uuid PRIMARY KEY,
    version integer NOT NULL,
    policies jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT policy_snapshots_policies_array CHECK (jsonb_typeof(policies) = 'array')
);

CREATE INDEX idx_policy_snapshots_version ON mandate.policy_snapshots (version);
CREATE INDEX idx_policy_snapshots_created_at ON mandate.policy_snapshots (created_at);

CREATE TABLE mandate.decision_events (
    decision_id uuid PRIMARY KEY,
    intent text NOT NULL,
    stage mandate.stage NOT NULL,
    actor text NOT NULL,
    target text NOT NULL,
    context jsonb NOT NULL DEFAULT '{}',
    scope jsonb NOT NULL DEFAULT '{}',
    timestamp timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_decision_events_intent ON mandate.decision_events (intent);
CREATE INDEX idx_decision_events_stage ON mandate.decision_events (stage);
CREATE INDEX idx_decision_events_actor ON mandate.decision_events (actor);
CREATE INDEX idx_decision_events_target ON mandate.decision_events (target);
CREATE INDEX idx_decision_events_context ON mandate.decision_events USING gin (context);
CREATE INDEX idx_decision_events_scope ON mandate.decision_events USING gin (scope);
CREATE INDEX idx_decision_events_timestamp ON mandate.decision_events (timestamp);
CREATE INDEX idx_decision_events_created_at ON mandate.decision_events (created_at);

CREATE TABLE mandate.verdict_events (
    verdict_id uuid PRIMARY KEY,
    decision_id uuid NOT NULL REFERENCES mandate.decision_events (decision_id),
    snapshot_id uuid NOT NULL REFERENCES mandate.policy_snapshots (snapshot_id),
    verdict mandate.verdict NOT NULL,
    matched_policy_ids text[] NOT NULL DEFAULT '{}',
    timestamp timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_verdict_events_decision_id ON mandate.verdict_events (decision_id);
CREATE INDEX idx_verdict_events_snapshot_id ON mandate.verdict_events (snapshot_id);
CREATE INDEX idx_verdict_events_verdict ON mandate.verdict_events (verdict);
CREATE INDEX idx_verdict_events_matched_policy_ids ON mandate.verdict_events USING gin (matched_policy_ids);
CREATE INDEX idx_verdict_events_timestamp ON mandate.verdict_events (timestamp);
CREATE INDEX idx_verdict_events_created_at ON mandate.verdict_events (created_at);

CREATE TABLE mandate.audit_timeline_entries (
    entry_id uuid PRIMARY KEY,
    decision_id uuid NOT NULL REFERENCES mandate.decision_events (decision_id),
    intent text NOT NULL,
    stage mandate.stage NOT NULL,
    actor text NOT NULL,
    target text NOT NULL,
    summary text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    severity text NOT NULL,
    event_source mandate.event_source NOT NULL,
    authority_level mandate.authority_level NOT NULL,
    timestamp timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_timeline_entries_severity CHECK (severity IN ('info', 'warning', 'critical'))
);

CREATE INDEX idx_audit_timeline_decision_id ON mandate.audit_timeline_entries (decision_id);
CREATE INDEX idx_audit_timeline_intent ON mandate.audit_timeline_entries (intent);
CREATE INDEX idx_audit_timeline_stage ON mandate.audit_timeline_entries (stage);
CREATE INDEX idx_audit_timeline_actor ON mandate.audit_timeline_entries (actor);
CREATE INDEX idx_audit_timeline_target ON mandate.audit_timeline_entries (target);
CREATE INDEX idx_audit_timeline_details ON mandate.audit_timeline_entries USING gin (details);
CREATE INDEX idx_audit_timeline_severity ON mandate.audit_timeline_entries (severity);
CREATE INDEX idx_audit_timeline_event_source ON mandate.audit_timeline_entries (event_source);
CREATE INDEX idx_audit_timeline_authority_level ON mandate.audit_timeline_entries (authority_level);
CREATE INDEX idx_audit_timeline_timestamp ON mandate.audit_timeline_entries (timestamp);
CREATE INDEX idx_audit_timeline_created_at ON mandate.audit_timeline_entries (created_at);

CREATE TRIGGER prevent_scopes_mutation BEFORE UPDATE OR DELETE ON mandate.scopes
    FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();
CREATE TRIGGER prevent_policy_snapshots_mutation BEFORE UPDATE OR DELETE ON mandate.policy_snapshots
    FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();
CREATE TRIGGER prevent_decision_events_mutation BEFORE UPDATE OR DELETE ON mandate.decision_events
    FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();
CREATE TRIGGER prevent_verdict_events_mutation BEFORE UPDATE OR DELETE ON mandate.verdict_events
    FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();
CREATE TRIGGER prevent_audit_timeline_mutation BEFORE UPDATE OR DELETE ON mandate.audit_timeline_entries
    FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

-- Operators and the execution guide use unqualified names.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = mandate, public', current_database());
END
$$;

COMMIT;
