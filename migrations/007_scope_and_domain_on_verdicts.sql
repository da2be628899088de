-- 007: a verdict says which scope it was given under, and names the domain and the team that own it.

\set ON_ERROR_STOP on

BEGIN;

ALTER TABLE mandate.verdict_events
    ADD COLUMN scope_id uuid REFERENCES mandate.scopes (scope_id),
    ADD COLUMN domain text,
    ADD COLUMN owning_team text;

CREATE INDEX idx_verdict_events_scope_id ON mandate.verdict_events (scope_id);
CREATE INDEX idx_verdict_events_domain ON mandate.verdict_events (domain);
CREATE INDEX idx_verdict_events_owning_team ON mandate.verdict_events (owning_team);

COMMIT;
