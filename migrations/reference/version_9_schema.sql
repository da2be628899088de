CREATE SCHEMA mandate;

ALTER SCHEMA mandate OWNER TO postgres;

CREATE TYPE mandate.authority_level AS ENUM (
    'system',
    'agent',
    'human'
);

ALTER TYPE mandate.authority_level OWNER TO postgres;

CREATE TYPE mandate.event_source AS ENUM (
    'system',
    'agent',
    'human'
);

ALTER TYPE mandate.event_source OWNER TO postgres;

CREATE TYPE mandate.stage AS ENUM (
    'proposed',
    'pre_commit',
    'executed'
);

ALTER TYPE mandate.stage OWNER TO postgres;

CREATE TYPE mandate.verdict AS ENUM (
    'ALLOW',
    'PAUSE',
    'BLOCK',
    'OBSERVE'
);

ALTER TYPE mandate.verdict OWNER TO postgres;

CREATE FUNCTION mandate.activate_spec() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO mandate.spec_events (organization_id, domain, intent, stage, event, spec_id, version, actor, at)
    VALUES (NEW.organization_id, NEW.domain, NEW.intent, NEW.stage, 'activated', NEW.spec_id, NEW.version,
            'recorded as active', NEW.created_at);
    RETURN NULL;
END
$$;

ALTER FUNCTION mandate.activate_spec() OWNER TO postgres;

CREATE FUNCTION mandate.fill_verdict_owning_team() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    SELECT s.owning_team INTO NEW.owning_team
    FROM mandate.scopes s
    WHERE s.organization_id = NEW.organization_id AND s.scope_id = NEW.scope_id;
    RETURN NEW;
END
$$;

ALTER FUNCTION mandate.fill_verdict_owning_team() OWNER TO postgres;

CREATE FUNCTION mandate.prevent_mutation() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'IMMUTABILITY VIOLATION: mandate.% is append-only, % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation',
              HINT = 'Append a new row that supersedes the old one.';
END
$$;

ALTER FUNCTION mandate.prevent_mutation() OWNER TO postgres;

CREATE FUNCTION mandate.validate_scope_id_domain_prefix() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT starts_with(NEW.scope_id, NEW.domain || '.') THEN
        RAISE EXCEPTION 'GOVERNANCE VIOLATION: scope_id ''%'' does not embed domain prefix ''%''',
            NEW.scope_id, NEW.domain
            USING ERRCODE = 'check_violation',
                  CONSTRAINT = 'validate_scopes_scope_id_domain_prefix',
                  HINT = format('A scope_id begins with its own domain and a dot: %s.prod.service.agent', NEW.domain);
    END IF;
    RETURN NEW;
END
$$;

ALTER FUNCTION mandate.validate_scope_id_domain_prefix() OWNER TO postgres;

CREATE FUNCTION mandate.validate_spec_event() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    before record;
BEGIN
    SELECT e.position, e.event, e.spec_id, e.version INTO before
    FROM mandate.spec_events e
    WHERE e.organization_id = NEW.organization_id AND e.domain = NEW.domain AND e.intent = NEW.intent
      AND e.stage = NEW.stage
    ORDER BY e.position DESC LIMIT 1;
    NEW.position := COALESCE(NEW.position, COALESCE(before.position, 0) + 1);
    IF NEW.position <> COALESCE(before.position, 0) + 1 THEN
        RAISE EXCEPTION 'GOVERNANCE VIOLATION: spec event % of %/%/% does not follow %', NEW.position, NEW.domain,
            NEW.intent, NEW.stage, COALESCE(before.position, 0)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'validate_spec_events',
                  HINT = 'Leave position out: the next one is taken.';
    ELSIF NEW.event = 'retired' AND (before.event IS DISTINCT FROM 'activated'
                                     OR (before.spec_id, before.version) <> (NEW.spec_id, NEW.version)) THEN
        RAISE EXCEPTION 'GOVERNANCE VIOLATION: spec % version % is not active for %/%/%', NEW.spec_id, NEW.version,
            NEW.domain, NEW.intent, NEW.stage
            USING ERRCODE = 'check_violation', CONSTRAINT = 'validate_spec_events',
                  HINT = 'Only the spec of the last activation can be retired.';
    END IF;
    RETURN NEW;
END
$$;

ALTER FUNCTION mandate.validate_spec_event() OWNER TO postgres;

CREATE TABLE mandate.audit_timeline_entries (
    entry_id uuid NOT NULL,
    decision_id uuid NOT NULL,
    intent text NOT NULL,
    stage mandate.stage NOT NULL,
    actor text NOT NULL,
    target text NOT NULL,
    summary text NOT NULL,
    details jsonb DEFAULT '{}'::jsonb NOT NULL,
    severity text NOT NULL,
    event_source mandate.event_source NOT NULL,
    authority_level mandate.authority_level NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    spec_id text,
    spec_version integer,
    CONSTRAINT audit_timeline_entries_domain_slug_format CHECK ((domain ~ '^[a-z0-9_-]+$'::text)),
    CONSTRAINT audit_timeline_entries_severity CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text])))
);

ALTER TABLE mandate.audit_timeline_entries OWNER TO postgres;

CREATE TABLE mandate.decision_events (
    decision_id uuid NOT NULL,
    intent text NOT NULL,
    stage mandate.stage NOT NULL,
    actor text NOT NULL,
    target text NOT NULL,
    context jsonb DEFAULT '{}'::jsonb NOT NULL,
    scope jsonb DEFAULT '{}'::jsonb NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    spec_id text,
    spec_version integer,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT decision_events_domain_slug_format CHECK ((domain ~ '^[a-z0-9_-]+$'::text))
);

ALTER TABLE mandate.decision_events OWNER TO postgres;

CREATE TABLE mandate.domains (
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    description text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT domains_domain_slug_format CHECK ((domain ~ '^[a-z0-9_-]+$'::text))
);

ALTER TABLE mandate.domains OWNER TO postgres;

CREATE TABLE mandate.identity_map (
    kind text NOT NULL,
    old_key text NOT NULL,
    new_key text NOT NULL,
    migrated_at timestamp with time zone DEFAULT now() NOT NULL,
    organization_id uuid NOT NULL,
    CONSTRAINT identity_map_kind CHECK ((kind = ANY (ARRAY['domain'::text, 'scope'::text])))
);

ALTER TABLE mandate.identity_map OWNER TO postgres;

COMMENT ON TABLE mandate.identity_map IS 'Every UUID that a domain or scope ever had, and the key it has now';

CREATE TABLE mandate.mandate_specs (
    spec_id text NOT NULL,
    version integer NOT NULL,
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    intent text NOT NULL,
    stage mandate.stage NOT NULL,
    allowed_verdicts mandate.verdict[] NOT NULL,
    signals jsonb DEFAULT '[]'::jsonb NOT NULL,
    enforcement jsonb DEFAULT '{}'::jsonb NOT NULL,
    status text DEFAULT 'draft'::text NOT NULL,
    replaced_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT mandate_specs_allowed_verdicts_not_empty CHECK ((cardinality(allowed_verdicts) > 0)),
    CONSTRAINT mandate_specs_enforcement_object CHECK ((jsonb_typeof(enforcement) = 'object'::text)),
    CONSTRAINT mandate_specs_signals_array CHECK ((jsonb_typeof(signals) = 'array'::text)),
    CONSTRAINT mandate_specs_status CHECK ((status = ANY (ARRAY['draft'::text, 'active'::text, 'deprecated'::text])))
);

ALTER TABLE mandate.mandate_specs OWNER TO postgres;

CREATE TABLE mandate.migration_log (
    id bigint NOT NULL,
    migration_version integer NOT NULL,
    migration_name text NOT NULL,
    description text,
    executed_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE mandate.migration_log OWNER TO postgres;

COMMENT ON TABLE mandate.migration_log IS 'Migrations that changed the identity of the record';

ALTER TABLE mandate.migration_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME mandate.migration_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE mandate.organizations (
    organization_id uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    description text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE mandate.organizations OWNER TO postgres;

CREATE TABLE mandate.policy_snapshots (
    snapshot_id uuid NOT NULL,
    version integer NOT NULL,
    policies jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    CONSTRAINT policy_snapshots_domain_slug_format CHECK ((domain ~ '^[a-z0-9_-]+$'::text)),
    CONSTRAINT policy_snapshots_policies_array CHECK ((jsonb_typeof(policies) = 'array'::text))
);

ALTER TABLE mandate.policy_snapshots OWNER TO postgres;

CREATE TABLE mandate.scopes (
    scope_id text NOT NULL,
    scope_domain text,
    service text,
    agent text,
    scope_system text,
    environment text,
    tenant text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    owning_team text,
    owner_contact text,
    description text,
    CONSTRAINT scopes_domain_slug_format CHECK ((domain ~ '^[a-z0-9_-]+$'::text))
);

ALTER TABLE mandate.scopes OWNER TO postgres;

CREATE TABLE mandate.spec_events (
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    intent text NOT NULL,
    stage mandate.stage NOT NULL,
    "position" integer NOT NULL,
    event text NOT NULL,
    spec_id text NOT NULL,
    version integer NOT NULL,
    actor text,
    reason text,
    at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT spec_events_event CHECK ((event = ANY (ARRAY['activated'::text, 'retired'::text]))),
    CONSTRAINT spec_events_position CHECK (("position" > 0))
);

ALTER TABLE mandate.spec_events OWNER TO postgres;

COMMENT ON TABLE mandate.spec_events IS 'Activations and retirements of specs; the last of a domain, intent and stage says which one decides';

CREATE TABLE mandate.verdict_events (
    verdict_id uuid NOT NULL,
    decision_id uuid NOT NULL,
    snapshot_id uuid NOT NULL,
    verdict mandate.verdict NOT NULL,
    matched_policy_ids text[] DEFAULT '{}'::text[] NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    organization_id uuid NOT NULL,
    domain text NOT NULL,
    spec_id text,
    spec_version integer,
    scope_id text,
    owning_team text,
    CONSTRAINT verdict_events_domain_slug_format CHECK ((domain ~ '^[a-z0-9_-]+$'::text))
);

ALTER TABLE mandate.verdict_events OWNER TO postgres;

ALTER TABLE ONLY mandate.audit_timeline_entries
    ADD CONSTRAINT audit_timeline_entries_pkey PRIMARY KEY (organization_id, entry_id);

ALTER TABLE ONLY mandate.decision_events
    ADD CONSTRAINT decision_events_pkey PRIMARY KEY (organization_id, decision_id);

ALTER TABLE ONLY mandate.domains
    ADD CONSTRAINT domains_pkey PRIMARY KEY (organization_id, domain);

ALTER TABLE ONLY mandate.identity_map
    ADD CONSTRAINT identity_map_pkey PRIMARY KEY (organization_id, kind, old_key);

ALTER TABLE ONLY mandate.mandate_specs
    ADD CONSTRAINT mandate_specs_pkey PRIMARY KEY (organization_id, spec_id, version);

ALTER TABLE ONLY mandate.migration_log
    ADD CONSTRAINT migration_log_migration_version_key UNIQUE (migration_version);

ALTER TABLE ONLY mandate.migration_log
    ADD CONSTRAINT migration_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY mandate.organizations
    ADD CONSTRAINT organizations_name_key UNIQUE (name);

ALTER TABLE ONLY mandate.organizations
    ADD CONSTRAINT organizations_pkey PRIMARY KEY (organization_id);

ALTER TABLE ONLY mandate.policy_snapshots
    ADD CONSTRAINT policy_snapshots_pkey PRIMARY KEY (organization_id, snapshot_id);

ALTER TABLE ONLY mandate.scopes
    ADD CONSTRAINT scopes_pkey PRIMARY KEY (organization_id, scope_id);

ALTER TABLE ONLY mandate.spec_events
    ADD CONSTRAINT spec_events_pkey PRIMARY KEY (organization_id, domain, intent, stage, "position");

ALTER TABLE ONLY mandate.verdict_events
    ADD CONSTRAINT verdict_events_pkey PRIMARY KEY (organization_id, verdict_id);

CREATE UNIQUE INDEX decision_events_organization_domain_decision_key ON mandate.decision_events USING btree (organization_id, domain, decision_id);

CREATE INDEX idx_audit_timeline_organization_decision ON mandate.audit_timeline_entries USING btree (organization_id, decision_id);

CREATE INDEX idx_decision_events_actor ON mandate.decision_events USING btree (actor);

CREATE INDEX idx_decision_events_order ON mandate.decision_events USING btree (organization_id, received_at, decision_id);

CREATE INDEX idx_decision_events_organization_timestamp ON mandate.decision_events USING btree (organization_id, "timestamp", decision_id);

CREATE INDEX idx_decision_events_target ON mandate.decision_events USING btree (target);

CREATE INDEX idx_decision_events_timestamp ON mandate.decision_events USING btree ("timestamp");

CREATE INDEX idx_identity_map_new_key ON mandate.identity_map USING btree (organization_id, kind, new_key);

CREATE INDEX idx_policy_snapshots_organization_domain_version ON mandate.policy_snapshots USING btree (organization_id, domain, version);

CREATE INDEX idx_verdict_events_organization_decision ON mandate.verdict_events USING btree (organization_id, decision_id);

CREATE INDEX idx_verdict_events_organization_scope ON mandate.verdict_events USING btree (organization_id, scope_id);

CREATE INDEX idx_verdict_events_organization_timestamp ON mandate.verdict_events USING btree (organization_id, "timestamp", verdict_id);

CREATE INDEX idx_verdict_events_timestamp ON mandate.verdict_events USING btree ("timestamp");

CREATE UNIQUE INDEX mandate_specs_place_key ON mandate.mandate_specs USING btree (organization_id, domain, intent, stage, spec_id, version);

CREATE UNIQUE INDEX policy_snapshots_organization_domain_snapshot_key ON mandate.policy_snapshots USING btree (organization_id, domain, snapshot_id);

CREATE UNIQUE INDEX scopes_organization_domain_scope_key ON mandate.scopes USING btree (organization_id, domain, scope_id);

CREATE TRIGGER activate_mandate_specs AFTER INSERT ON mandate.mandate_specs FOR EACH ROW WHEN ((new.status = 'active'::text)) EXECUTE FUNCTION mandate.activate_spec();

CREATE TRIGGER fill_verdict_events_owning_team BEFORE INSERT ON mandate.verdict_events FOR EACH ROW WHEN (((new.owning_team IS NULL) AND (new.scope_id IS NOT NULL))) EXECUTE FUNCTION mandate.fill_verdict_owning_team();

CREATE TRIGGER prevent_audit_timeline_mutation BEFORE DELETE OR UPDATE ON mandate.audit_timeline_entries FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_audit_timeline_truncate BEFORE TRUNCATE ON mandate.audit_timeline_entries FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_decision_events_mutation BEFORE DELETE OR UPDATE ON mandate.decision_events FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_decision_events_truncate BEFORE TRUNCATE ON mandate.decision_events FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_domains_mutation BEFORE DELETE OR UPDATE ON mandate.domains FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_domains_truncate BEFORE TRUNCATE ON mandate.domains FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_identity_map_mutation BEFORE DELETE OR UPDATE ON mandate.identity_map FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_identity_map_truncate BEFORE TRUNCATE ON mandate.identity_map FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_mandate_specs_mutation BEFORE DELETE OR UPDATE ON mandate.mandate_specs FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_mandate_specs_truncate BEFORE TRUNCATE ON mandate.mandate_specs FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_migration_log_mutation BEFORE DELETE OR UPDATE ON mandate.migration_log FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_migration_log_truncate BEFORE TRUNCATE ON mandate.migration_log FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_organizations_mutation BEFORE DELETE OR UPDATE ON mandate.organizations FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_organizations_truncate BEFORE TRUNCATE ON mandate.organizations FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_policy_snapshots_mutation BEFORE DELETE OR UPDATE ON mandate.policy_snapshots FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_policy_snapshots_truncate BEFORE TRUNCATE ON mandate.policy_snapshots FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_scopes_mutation BEFORE DELETE OR UPDATE ON mandate.scopes FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_scopes_truncate BEFORE TRUNCATE ON mandate.scopes FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_spec_events_mutation BEFORE DELETE OR UPDATE ON mandate.spec_events FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_spec_events_truncate BEFORE TRUNCATE ON mandate.spec_events FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_verdict_events_mutation BEFORE DELETE OR UPDATE ON mandate.verdict_events FOR EACH ROW EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER prevent_verdict_events_truncate BEFORE TRUNCATE ON mandate.verdict_events FOR EACH STATEMENT EXECUTE FUNCTION mandate.prevent_mutation();

CREATE TRIGGER validate_scopes_scope_id_domain_prefix BEFORE INSERT OR UPDATE ON mandate.scopes FOR EACH ROW EXECUTE FUNCTION mandate.validate_scope_id_domain_prefix();

CREATE TRIGGER validate_spec_events BEFORE INSERT ON mandate.spec_events FOR EACH ROW EXECUTE FUNCTION mandate.validate_spec_event();

ALTER TABLE ONLY mandate.audit_timeline_entries
    ADD CONSTRAINT audit_timeline_entries_organization_domain_decision_fkey FOREIGN KEY (organization_id, domain, decision_id) REFERENCES mandate.decision_events(organization_id, domain, decision_id);

ALTER TABLE ONLY mandate.decision_events
    ADD CONSTRAINT decision_events_organization_domain_fkey FOREIGN KEY (organization_id, domain) REFERENCES mandate.domains(organization_id, domain);

ALTER TABLE ONLY mandate.domains
    ADD CONSTRAINT domains_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES mandate.organizations(organization_id);

ALTER TABLE ONLY mandate.policy_snapshots
    ADD CONSTRAINT policy_snapshots_organization_domain_fkey FOREIGN KEY (organization_id, domain) REFERENCES mandate.domains(organization_id, domain);

ALTER TABLE ONLY mandate.scopes
    ADD CONSTRAINT scopes_organization_domain_fkey FOREIGN KEY (organization_id, domain) REFERENCES mandate.domains(organization_id, domain);

ALTER TABLE ONLY mandate.spec_events
    ADD CONSTRAINT spec_events_spec_fkey FOREIGN KEY (organization_id, domain, intent, stage, spec_id, version) REFERENCES mandate.mandate_specs(organization_id, domain, intent, stage, spec_id, version);

ALTER TABLE ONLY mandate.verdict_events
    ADD CONSTRAINT verdict_events_organization_domain_decision_fkey FOREIGN KEY (organization_id, domain, decision_id) REFERENCES mandate.decision_events(organization_id, domain, decision_id);

ALTER TABLE ONLY mandate.verdict_events
    ADD CONSTRAINT verdict_events_organization_domain_scope_fkey FOREIGN KEY (organization_id, domain, scope_id) REFERENCES mandate.scopes(organization_id, domain, scope_id);

ALTER TABLE ONLY mandate.verdict_events
    ADD CONSTRAINT verdict_events_organization_domain_snapshot_fkey FOREIGN KEY (organization_id, domain, snapshot_id) REFERENCES mandate.policy_snapshots(organization_id, domain, snapshot_id);
