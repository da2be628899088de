-- Writes decisions with their verdicts and timeline entries, all of them or none, and says what became of each.
-- What decisions have in common comes once: `kind` is a place in the arrays k_..., `k_entry` one in e_..., which say
-- what they were judged by. A decision whose domain has a newer snapshot, another scope or another spec event than that
-- is not written (fresh is false); one whose decision_id is there already is not written either (written is false).
-- With whole, the evidence is given back as it is recorded.
WITH given AS MATERIALIZED (
    SELECT g.place, g.kind AS kind, g.decision_id, g.actor AS actor, g.target AS target, g.timestamp, g.received, g.verdict_id, g.verdict, g.matched AS matched, g.issued, g.summary AS summary, g.recorded_id, g.recorded AS recorded, g.issued_id, g.details, COALESCE(NULLIF(g.body -> 'context', 'null'), '{}') AS context,
        COALESCE(NULLIF(g.body -> 'scope', 'null'), '{}') AS scope, (ARRAY(
            SELECT e.snapshot_id IS NOT DISTINCT FROM (
                SELECT p.snapshot_id FROM mandate.policy_snapshots p
                WHERE p.organization_id = e.organization_id AND p.domain = e.domain
                ORDER BY p.version DESC, p.created_at DESC, p.snapshot_id DESC
                LIMIT 1
            )
            AND e.scopes = (
                SELECT count(*) FROM mandate.scopes s
                WHERE s.organization_id = e.organization_id AND s.domain = e.domain
            )
            AND e.specs = (
                SELECT count(*) FROM mandate.spec_events v
                WHERE v.organization_id = e.organization_id AND v.domain = e.domain
            )
            FROM unnest(
                %(e_organization_id)s::uuid[], %(e_domain)s::text[], %(e_snapshot_id)s::uuid[],
                %(e_scopes)s::bigint[], %(e_specs)s::bigint[]
            ) WITH ORDINALITY AS e (organization_id, domain, snapshot_id, scopes, specs, place)
            ORDER BY e.place
        ))[(%(k_entry)s::int[])[g.kind]] AS fresh
    FROM (SELECT g.place, g.kind AS kind, g.decision_id::uuid AS decision_id, g.actor AS actor, g.target AS target, g.body::jsonb AS body, g.timestamp::timestamptz AS timestamp, g.received::timestamptz AS received, g.verdict_id::uuid AS verdict_id, g.verdict::mandate.verdict AS verdict, g.matched AS matched, g.issued::timestamptz AS issued, g.summary AS summary, g.recorded_id::uuid AS recorded_id, g.recorded AS recorded, g.issued_id::uuid AS issued_id, g.details::jsonb AS details
    FROM unnest(
        %(kind)s::int[], string_to_array(%(decision_id)s, E'\x01'), string_to_array(%(actor)s, E'\x01'), string_to_array(%(target)s, E'\x01'), string_to_array(%(body)s, E'\x01'), string_to_array(%(timestamp)s, E'\x01'), string_to_array(%(received)s, E'\x01'), string_to_array(%(verdict_id)s, E'\x01'), string_to_array(%(verdict)s, E'\x01'), string_to_array(%(matched)s, E'\x01'), string_to_array(%(issued)s, E'\x01'), string_to_array(%(summary)s, E'\x01'), string_to_array(%(recorded_id)s, E'\x01'), %(recorded)s::jsonb[], string_to_array(%(issued_id)s, E'\x01'), string_to_array(%(details)s, E'\x01')
    ) WITH ORDINALITY AS g (
        kind, decision_id, actor, target, body, timestamp, received, verdict_id, verdict, matched, issued, summary,
        recorded_id, recorded, issued_id, details, place
    ) OFFSET 0) AS g
), decided AS (
    INSERT INTO mandate.decision_events AS d
        (decision_id, intent, stage, actor, target, context, scope, timestamp, created_at, received_at, organization_id,
        domain, spec_id, spec_version)
    SELECT decision_id, (%(k_intent)s::text[])[kind], (%(k_stage)s::mandate.stage[])[kind], actor, target, context,
        scope, timestamp, received, received, (%(k_organization_id)s::uuid[])[kind], (%(k_domain)s::text[])[kind],
        (%(k_spec_id)s::text[])[kind], (%(k_spec_version)s::int[])[kind]
    FROM given
    WHERE fresh
    ON CONFLICT (organization_id, decision_id) DO NOTHING
    RETURNING d.decision_id
), judged AS (
    INSERT INTO mandate.verdict_events
        (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids, timestamp, created_at, organization_id,
        domain, spec_id, spec_version, scope_id, owning_team)
    SELECT verdict_id, decision_id, (%(k_snapshot_id)s::uuid[])[kind], verdict, matched::text[], issued, issued,
        (%(k_organization_id)s::uuid[])[kind], (%(k_domain)s::text[])[kind],
        (%(k_spec_id)s::text[])[kind], (%(k_spec_version)s::int[])[kind],
        (%(k_scope_id)s::text[])[kind], (%(k_owning_team)s::text[])[kind]
    FROM given
    WHERE decision_id = ANY (ARRAY(SELECT decision_id FROM decided))
), entered AS (
    INSERT INTO mandate.audit_timeline_entries
        (entry_id, decision_id, intent, stage, actor, target, summary, details, severity, event_source,
        authority_level, timestamp, created_at, organization_id, domain, spec_id, spec_version)
    SELECT recorded_id, decision_id, (%(k_intent)s::text[])[kind], (%(k_stage)s::mandate.stage[])[kind], actor, target,
        'Decision recorded: ' || (%(k_intent)s::text[])[kind] || ', ' || (%(k_stage)s::mandate.stage[])[kind],
        COALESCE(recorded, '{"type": "DECISION_RECORDED"}'), 'info', 'agent'::mandate.event_source,
        'agent'::mandate.authority_level, received, received, (%(k_organization_id)s::uuid[])[kind],
        (%(k_domain)s::text[])[kind], (%(k_spec_id)s::text[])[kind], (%(k_spec_version)s::int[])[kind]
    FROM given
    WHERE decision_id = ANY (ARRAY(SELECT decision_id FROM decided))
    UNION ALL
    SELECT issued_id, decision_id, (%(k_intent)s::text[])[kind], (%(k_stage)s::mandate.stage[])[kind], actor, target,
        summary, details, CASE verdict WHEN 'BLOCK' THEN 'critical' WHEN 'PAUSE' THEN 'warning' ELSE 'info' END,
        'system', 'system', issued, issued, (%(k_organization_id)s::uuid[])[kind],
        (%(k_domain)s::text[])[kind], (%(k_spec_id)s::text[])[kind], (%(k_spec_version)s::int[])[kind]
    FROM given
    WHERE decision_id = ANY (ARRAY(SELECT decision_id FROM decided))
)
SELECT g.place, g.fresh, g.decision_id = ANY (ARRAY(SELECT decision_id FROM decided)) AS written,
    CASE WHEN %(whole)s::boolean THEN g.context::text END AS context,
    CASE WHEN %(whole)s::boolean THEN g.scope::text END AS scope
FROM given g
-- Only version 9 has this table: PostgreSQL itself refuses the statement where the schema is another one.
WHERE NOT EXISTS (SELECT FROM mandate.spec_events WHERE false)
