-- How a version 7 database spells what a replay reads. The domain is its UUID's name.
WITH decision AS NOT MATERIALIZED (
    SELECT d.decision_id, d.organization_id, n.name AS domain, d.intent, d.stage, d.actor, d.target,
        d.context, d.scope, d.timestamp, d.created_at AS received_at, d.spec_id, d.spec_version
    FROM mandate.decision_events d
    LEFT JOIN mandate.domains n ON n.domain_id = d.domain_id
), verdict AS NOT MATERIALIZED (
    SELECT v.verdict_id, v.organization_id, n.name AS domain, v.decision_id, v.snapshot_id, v.verdict,
        v.matched_policy_ids, v.spec_id, v.spec_version, v.timestamp
    FROM mandate.verdict_events v
    LEFT JOIN mandate.domains n ON n.domain_id = v.domain_id
), snapshot AS NOT MATERIALIZED (
    SELECT p.snapshot_id, p.organization_id, n.name AS domain, p.policies
    FROM mandate.policy_snapshots p
    LEFT JOIN mandate.domains n ON n.domain_id = p.domain_id
), place AS NOT MATERIALIZED (
    SELECT s.scope_id::text AS scope_id, s.environment, s.service, s.agent, s.scope_system AS system, s.tenant,
        s.owning_team, s.created_at, n.organization_id, n.name AS domain
    FROM mandate.scopes s
    JOIN mandate.domains n ON n.domain_id = s.domain_id
), known AS NOT MATERIALIZED (
    SELECT organization_id, name AS domain, domain_id::text AS key
    FROM mandate.domains
)
