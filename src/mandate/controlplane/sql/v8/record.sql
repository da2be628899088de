-- Writes decisions with their verdicts and timeline entries, all of them or none, and says what became of each.
-- A decision whose domain has a newer snapshot, another scope or another active spec than it was judged by is not
-- written (fresh is false); one whose decision_id is there already is not written either (decision is null). Without
-- whole the decision itself is not given back.
WITH judged_by AS MATERIALIZED (
    SELECT k.place, (
        k.snapshot_id IS NOT DISTINCT FROM (
            SELECT p.snapshot_id FROM mandate.policy_snapshots p
            WHERE p.organization_id = k.organization_id AND p.domain = k.domain
            ORDER BY p.version DESC, p.created_at DESC, p.snapshot_id DESC
            LIMIT 1
        )
        AND k.scopes = (
            SELECT count(*) FROM mandate.scopes s
            WHERE s.organization_id = k.organization_id AND s.domain = k.domain
        )
        AND k.specs = (
            SELECT count(*) FROM mandate.mandate_specs s
            WHERE s.organization_id = k.organization_id AND s.domain = k.domain AND s.status = 'active'
        )
    ) AS fresh
    FROM unnest(
        %(k_place)s::int[], %(k_organization_id)s::uuid[], %(k_domain)s::text[], %(k_snapshot_id)s::uuid[],
        %(k_scopes)s::bigint[], %(k_specs)s::bigint[]
    ) AS k (place, organization_id, domain, snapshot_id, scopes, specs)
), given AS MATERIALIZED (
    SELECT g.*, k.fresh
    FROM unnest(
        %(place)s::int[], %(judged_by)s::int[], %(decision_id)s::uuid[], %(organization_id)s::uuid[],
        %(domain)s::text[], %(intent)s::text[], %(stage)s::mandate.stage[], %(actor)s::text[], %(target)s::text[],
        %(body)s::jsonb[], %(timestamp)s::timestamptz[], %(received)s::timestamptz[], %(spec_id)s::text[],
        %(spec_version)s::int[], %(verdict_id)s::uuid[], %(snapshot_id)s::uuid[], %(verdict)s::mandate.verdict[],
        %(matched)s::jsonb[], %(issued)s::timestamptz[], %(scope_id)s::text[], %(owning_team)s::text[],
        %(explanation)s::text[], %(severity)s::text[], %(summary)s::text[], %(recorded_id)s::uuid[],
        %(recorded)s::jsonb[], %(issued_id)s::uuid[], %(details)s::jsonb[]
    ) AS g (
        place, judged_by, decision_id, organization_id, domain, intent, stage, actor, target, body, timestamp,
        received, spec_id, spec_version, verdict_id, snapshot_id, verdict, matched, issued, scope_id, owning_team,
        explanation, severity, summary, recorded_id, recorded, issued_id, details
    )
    JOIN judged_by k ON k.place = g.judged_by
), decided AS (
    INSERT INTO mandate.decision_events AS d
        (decision_id, intent, stage, actor, target, context, scope, timestamp, created_at, organization_id, domain,
        spec_id, spec_version)
    SELECT decision_id, intent, stage, actor, target, COALESCE(NULLIF(body -> 'context', 'null'), '{}'),
        COALESCE(NULLIF(body -> 'scope', 'null'), '{}'), timestamp, received, organization_id, domain, spec_id,
        spec_version
    FROM given
    WHERE fresh
    ON CONFLICT (decision_id) DO NOTHING
    RETURNING d.decision_id, d.context, d.scope
), judged AS (
    INSERT INTO mandate.verdict_events
        (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids, timestamp, created_at, organization_id,
        domain, spec_id, spec_version, scope_id, owning_team)
    SELECT verdict_id, decision_id, snapshot_id, verdict, ARRAY(SELECT jsonb_array_elements_text(matched)), issued,
        issued, organization_id, domain, spec_id, spec_version, scope_id, owning_team
    FROM given
    JOIN decided USING (decision_id)
), entered AS (
    INSERT INTO mandate.audit_timeline_entries
        (entry_id, decision_id, intent, stage, actor, target, summary, details, severity, event_source,
        authority_level, timestamp, created_at, organization_id, domain, spec_id, spec_version)
    SELECT recorded_id, decision_id, intent, stage, actor, target, 'Decision recorded: ' || intent || ', ' || stage,
        recorded, 'info', 'agent'::mandate.event_source, 'agent'::mandate.authority_level, received, received,
        organization_id, domain, spec_id, spec_version
    FROM given
    JOIN decided USING (decision_id)
    UNION ALL
    SELECT issued_id, decision_id, intent, stage, actor, target, summary, details, severity, 'system', 'system',
        issued, issued, organization_id, domain, spec_id, spec_version
    FROM given
    JOIN decided USING (decision_id)
)
SELECT g.place, g.fresh, CASE WHEN d.decision_id IS NULL THEN NULL WHEN %(whole)s::boolean THEN json_build_object(
        'decision_id', g.decision_id, 'organization_id', g.organization_id, 'domain', g.domain,
        'intent', g.intent, 'stage', g.stage, 'actor', g.actor, 'target', g.target,
        'context', d.context, 'scope', d.scope, 'timestamp', g.timestamp,
        'spec_id', g.spec_id, 'spec_version', g.spec_version
    )::text ELSE '' END AS decision, CASE WHEN d.decision_id IS NOT NULL THEN json_build_object(
        'verdict_id', g.verdict_id, 'organization_id', g.organization_id, 'domain', g.domain,
        'decision_id', g.decision_id, 'snapshot_id', g.snapshot_id, 'verdict', g.verdict,
        'matched_policy_ids', g.matched, 'explanation', g.explanation, 'spec_id', g.spec_id,
        'spec_version', g.spec_version, 'scope_id', g.scope_id, 'owning_team', g.owning_team, 'timestamp', g.issued
    )::text END AS verdict
FROM given g
LEFT JOIN decided d USING (decision_id)
-- Only version 8 has this table: PostgreSQL itself refuses the statement where the schema is another one.
WHERE NOT EXISTS (SELECT FROM mandate.identity_map WHERE false)
