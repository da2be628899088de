-- Writes decisions with their verdicts and timeline entries, all of them or none, and says what became of each.
-- What decisions have in common comes once: `kind` is a place in the arrays k_..., `k_entry` one in e_..., which say
-- what they were judged by. A decision whose domain has a newer snapshot, another scope or another active spec than
-- that is not written (fresh is false); one whose decision_id is there already is not written either (written is
-- false). With whole, the evidence is given back as it is recorded.
WITH given AS MATERIALIZED (
    SELECT g.place, g.kind, g.decision_id, g.actor, g.target, g.body::jsonb AS body, g.timestamp, g.received,
        g.verdict_id, g.verdict, g.matched, g.issued, g.summary, g.recorded_id, g.recorded, g.issued_id,
        g.details::jsonb AS details, (ARRAY(
            SELECT e.snapshot_id IS NOT DISTINCT FROM (
                SELECT p.snapshot_id FROM mandate.policy_snapshots p
                WHERE p.domain_id = e.domain_key
                ORDER BY p.version DESC, p.created_at DESC, p.snapshot_id DESC
                LIMIT 1
            )
            AND e.scopes = (
                SELECT count(*) FROM mandate.scopes s
                WHERE s.domain_id = e.domain_key
            )
            AND e.specs = (
                SELECT count(*) FROM mandate.mandate_specs s
                WHERE s.organization_id = e.organization_id AND s.domain = e.domain AND s.status = 'active'
            )
            FROM unnest(
                %(e_organization_id)s::uuid[], %(e_domain)s::text[], %(e_domain_key)s::uuid[],
                %(e_snapshot_id)s::uuid[],
                %(e_scopes)s::bigint[], %(e_specs)s::bigint[]
            ) WITH ORDINALITY AS e (organization_id, domain, domain_key, snapshot_id, scopes, specs, place)
            ORDER BY e.place
        ))[(%(k_entry)s::int[])[g.kind]] AS fresh
    FROM unnest(
        %(kind)s::int[], %(decision_id)s::uuid[], %(actor)s::text[], %(target)s::text[],
        %(timestamp)s::timestamptz[], %(received)s::timestamptz[], %(verdict_id)s::uuid[],
        %(verdict)s::mandate.verdict[], %(matched)s::text[], %(issued)s::timestamptz[], %(summary)s::text[],
        %(recorded_id)s::uuid[], %(recorded)s::jsonb[], %(issued_id)s::uuid[],
        -- JSON has no such character in it, and nothing has to be escaped.
        string_to_array(%(body)s, E'\x01'), string_to_array(%(details)s, E'\x01')
    ) WITH ORDINALITY AS g (
        kind, decision_id, actor, target, timestamp, received, verdict_id, verdict, matched, issued, summary,
        recorded_id, recorded, issued_id, body, details, place
    )
), decided AS (
    INSERT INTO mandate.decision_events AS d
        (decision_id, intent, stage, actor, target, context, scope, timestamp, created_at, organization_id,
        domain_id, spec_id, spec_version)
    SELECT decision_id, (%(k_intent)s::text[])[kind], (%(k_stage)s::mandate.stage[])[kind], actor, target,
        COALESCE(NULLIF(body -> 'context', 'null'), '{}'), COALESCE(NULLIF(body -> 'scope', 'null'), '{}'),
        timestamp, received, (%(k_organization_id)s::uuid[])[kind], (%(k_domain_key)s::uuid[])[kind],
        (%(k_spec_id)s::text[])[kind], (%(k_spec_version)s::int[])[kind]
    FROM given
    WHERE fresh
    ON CONFLICT (decision_id) DO NOTHING
    RETURNING d.decision_id
), judged AS (
    INSERT INTO mandate.verdict_events
        (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids, timestamp, created_at, organization_id,
        domain_id, spec_id, spec_version, scope_id, owning_team)
    SELECT verdict_id, decision_id, (%(k_snapshot_id)s::uuid[])[kind], verdict, matched::text[], issued, issued,
        (%(k_organization_id)s::uuid[])[kind], (%(k_domain_key)s::uuid[])[kind],
        (%(k_spec_id)s::text[])[kind], (%(k_spec_version)s::int[])[kind],
        (%(k_scope_id)s::uuid[])[kind], (%(k_owning_team)s::text[])[kind]
    FROM given
    WHERE decision_id = ANY (ARRAY(SELECT decision_id FROM decided))
), entered AS (
    INSERT INTO mandate.audit_timeline_entries
        (entry_id, decision_id, intent, stage, actor, target, summary, details, severity, event_source,
        authority_level, timestamp, created_at, organization_id, domain_id, spec_id, spec_version)
    SELECT recorded_id, decision_id, (%(k_intent)s::text[])[kind], (%(k_stage)s::mandate.stage[])[kind], actor, target,
        'Decision recorded: ' || (%(k_intent)s::text[])[kind] || ', ' || (%(k_stage)s::mandate.stage[])[kind],
        COALESCE(recorded, '{"type": "DECISION_RECORDED"}'), 'info', 'agent'::mandate.event_source,
        'agent'::mandate.authority_level, received, received, (%(k_organization_id)s::uuid[])[kind],
        (%(k_domain_key)s::uuid[])[kind], (%(k_spec_id)s::text[])[kind], (%(k_spec_version)s::int[])[kind]
    FROM given
    WHERE decision_id = ANY (ARRAY(SELECT decision_id FROM decided))
    UNION ALL
    SELECT issued_id, decision_id, (%(k_intent)s::text[])[kind], (%(k_stage)s::mandate.stage[])[kind], actor, target,
        summary, details, CASE verdict WHEN 'BLOCK' THEN 'critical' WHEN 'PAUSE' THEN 'warning' ELSE 'info' END,
        'system', 'system', issued, issued, (%(k_organization_id)s::uuid[])[kind],
        (%(k_domain_key)s::uuid[])[kind], (%(k_spec_id)s::text[])[kind], (%(k_spec_version)s::int[])[kind]
    FROM given
    WHERE decision_id = ANY (ARRAY(SELECT decision_id FROM decided))
)
SELECT g.place, g.fresh, g.decision_id = ANY (ARRAY(SELECT decision_id FROM decided)) AS written,
    CASE WHEN %(whole)s::boolean THEN COALESCE(NULLIF(body -> 'context', 'null'), '{}')::text END AS context,
    CASE WHEN %(whole)s::boolean THEN COALESCE(NULLIF(body -> 'scope', 'null'), '{}')::text END AS scope
FROM given g
