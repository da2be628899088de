-- How a version 9 database spells what a replay reads.
WITH decision AS NOT MATERIALIZED (
    SELECT decision_id, organization_id, domain, intent, stage, actor, target,
        context, scope, timestamp, received_at, spec_id, spec_version
    FROM mandate.decision_events
    -- Only version 9 has this table.
    WHERE NOT EXISTS (SELECT FROM mandate.spec_events WHERE false)
), verdict AS NOT MATERIALIZED (
    SELECT verdict_id, organization_id, domain, decision_id, snapshot_id, verdict,
        matched_policy_ids, spec_id, spec_version, timestamp
    FROM mandate.verdict_events
), snapshot AS NOT MATERIALIZED (
    SELECT snapshot_id, organization_id, domain, policies
    FROM mandate.policy_snapshots
), place AS NOT MATERIALIZED (
    SELECT scope_id, environment, service, agent, scope_system AS system, tenant, owning_team, organization_id, domain,
        created_at
    FROM mandate.scopes
), known AS NOT MATERIALIZED (
    SELECT n.organization_id, n.domain, m.old_key AS key
    FROM mandate.domains n
    LEFT JOIN mandate.identity_map m ON m.kind = 'domain' AND m.new_key = n.domain
        AND (m.organization_id IS NULL OR m.organization_id = n.organization_id)
)
