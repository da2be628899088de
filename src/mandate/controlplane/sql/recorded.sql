-- What is recorded under the decision_ids of bodies that were posted again, and whether it says the same.
SELECT g.place,
    d.organization_id = g.organization_id AND d.domain = g.domain AND d.intent = g.intent AND d.stage = g.stage
        AND d.actor = g.actor AND d.target = g.target
        AND d.context = COALESCE(NULLIF(g.body -> 'context', 'null'), '{}')
        AND d.scope = COALESCE(NULLIF(g.body -> 'scope', 'null'), '{}')
        AND (g.timestamp IS NULL OR d.timestamp = g.timestamp)
        AND r.details ->> 'unstructured_context' IS NOT DISTINCT FROM g.text
        AND r.details -> 'given' IS NOT DISTINCT FROM g.given AS same,
    json_build_object(
        'decision_id', d.decision_id, 'organization_id', d.organization_id, 'domain', d.domain,
        'intent', d.intent, 'stage', d.stage, 'actor', d.actor, 'target', d.target,
        'context', d.context, 'scope', d.scope, 'timestamp', d.timestamp,
        'spec_id', d.spec_id, 'spec_version', d.spec_version
    )::text AS decision,
    CASE WHEN v.verdict_id IS NOT NULL THEN json_build_object(
        'verdict_id', v.verdict_id, 'organization_id', v.organization_id, 'domain', v.domain,
        'decision_id', v.decision_id, 'snapshot_id', v.snapshot_id, 'verdict', v.verdict,
        'matched_policy_ids', v.matched_policy_ids, 'explanation', e.explanation,
        'spec_id', v.spec_id, 'spec_version', v.spec_version, 'scope_id', v.scope_id,
        'owning_team', v.owning_team, 'timestamp', v.timestamp
    )::text END AS verdict
FROM unnest(
    %(place)s::int[], %(decision_id)s::uuid[], %(organization_id)s::uuid[],
    %(domain)s::text[], %(intent)s::text[], %(stage)s::mandate.stage[], %(actor)s::text[],
    %(target)s::text[], %(body)s::jsonb[], %(timestamp)s::timestamptz[], %(text)s::text[],
    %(given)s::jsonb[]
) AS g (
    place, decision_id, organization_id, domain, intent, stage, actor, target, body, timestamp, text, given
)
JOIN decision d ON d.decision_id = g.decision_id /* tenant: d, g */
LEFT JOIN LATERAL (
    SELECT t.details
    FROM mandate.audit_timeline_entries t
    WHERE t.decision_id = d.decision_id /* tenant: t, d */ AND t.details ->> 'type' = 'DECISION_RECORDED'
    ORDER BY t.timestamp, t.entry_id
    LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT f.* FROM verdict f WHERE f.decision_id = d.decision_id /* tenant: f, d */
    ORDER BY f.timestamp DESC, f.verdict_id DESC LIMIT 1
) v ON true
LEFT JOIN LATERAL (
    SELECT COALESCE(t.details -> 'explanation', to_jsonb(t.summary)) AS explanation
    FROM mandate.audit_timeline_entries t
    WHERE t.decision_id = d.decision_id /* tenant: t, d */ AND t.details ->> 'type' = 'VERDICT_ISSUED'
    ORDER BY t.timestamp DESC, t.entry_id DESC
    LIMIT 1
) e ON true
