-- 005: decision specs, the contract of a kind of decision: its signals, and the verdicts it may get.

\set ON_ERROR_STOP on

BEGIN;

CREATE TABLE mandate.mandate_specs (
    spec_id text NOT NULL,
    version integer NOT NULL,
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    intent text NOT NULL,
    stage mandate.stage NOT NULL,
    allowed_verdicts mandate.verdict[] NOT NULL,
    signals jsonb NOT NULL DEFAULT '[]',
    enforcement jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'draft',
    replaced_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (spec_id, version),
    CONSTRAINT mandate_specs_allowed_verdicts_not_empty CHECK (cardinality(allowed_verdicts) > 0),
    CONSTRAINT mandate_specs_signals_array CHECK (jsonb_typeof(signals) = 'array'),
    CONSTRAINT mandate_specs_enforcement_object CHECK (jsonb_typeof(enforcement) = 'object'),
    CONSTRAINT mandate_specs_status CHECK (status IN ('draft', 'active', 'deprecated'))
);

CREATE UNIQUE INDEX mandate_specs_one_active ON mandate.mandate_specs (organization_id, domain, intent, stage)
    WHERE status = 'active';

CREATE TRIGGER prevent_mandate_specs_mutation BEFORE UPDATE OR DELETE ON mandate.mandate_specs
    FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

ALTER TABLE mandate.decision_events ADD COLUMN spec_id text, ADD COLUMN spec_version integer;
CREATE INDEX idx_decision_events_spec ON mandate.decision_events (spec_id, spec_version);

ALTER TABLE mandate.verdict_events ADD COLUMN spec_id text, ADD COLUMN spec_version integer;
CREATE INDEX idx_verdict_events_spec ON mandate.verdict_events (spec_id, spec_version);

-- Not indexed: a timeline is read by decision, and the decision knows its spec.
ALTER TABLE mandate.audit_timeline_entries ADD COLUMN spec_id text, ADD COLUMN spec_version integer;

COMMIT;
