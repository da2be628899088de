-- A page of decisions with their latest verdict, last received first. Verdicts are joined where they are filtered by; else
-- those of the page are looked up, and no other.
SELECT d.received_at::text AS position_1, concat_ws(' ', d.decision_id, d.organization_id) AS position_2,
    json_build_object(
        'decision_id', d.decision_id, 'organization_id', d.organization_id, 'domain', d.domain,
        'intent', d.intent, 'stage', d.stage, 'actor', d.actor, 'target', d.target,
        'context', d.context, 'scope', d.scope, 'timestamp', d.timestamp,
        'spec_id', d.spec_id, 'spec_version', d.spec_version,
        'verdict', CASE WHEN %(verdict)s::mandate.verdict IS NULL AND %(scope_keys)s::text[] IS NULL THEN (
            SELECT v.verdict
            FROM attached v
            WHERE v.decision_id = d.decision_id /* tenant: v, d */ AND NOT EXISTS (
                SELECT FROM mandate.verdict_events later
                WHERE later.decision_id = v.decision_id /* tenant: later, v */ AND (later.timestamp, later.verdict_id) > (v.timestamp, v.verdict_id)
            )
        ) ELSE v.verdict END
    )::text AS body
FROM decision d
LEFT JOIN attached v ON (%(verdict)s::mandate.verdict IS NOT NULL OR %(scope_keys)s::text[] IS NOT NULL)
    AND v.decision_id = d.decision_id /* tenant: v, d */ AND NOT EXISTS (
    SELECT FROM mandate.verdict_events later
    WHERE later.decision_id = v.decision_id /* tenant: later, v */ AND (later.timestamp, later.verdict_id) > (v.timestamp, v.verdict_id)
)
WHERE (%(organization_id)s::uuid IS NULL OR d.organization_id = %(organization_id)s)
    AND (%(intent)s::text IS NULL OR d.intent = %(intent)s)
    AND (%(stage)s::mandate.stage IS NULL OR d.stage = %(stage)s)
    AND (%(actor)s::text IS NULL OR d.actor = %(actor)s)
    AND (%(target)s::text IS NULL OR d.target = %(target)s)
    AND (%(verdict)s::mandate.verdict IS NULL OR v.verdict = %(verdict)s)
    AND (%(scope_keys)s::text[] IS NULL OR v.verdict_id IS NOT NULL)
    AND (%(since)s::timestamptz IS NULL OR d.received_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR d.received_at < %(until)s)
    AND (%(after_1)s::text IS NULL
        OR (d.received_at, d.decision_id, d.organization_id) < (%(after_1)s::text::timestamptz, split_part(%(after_2)s::text, ' ', 1)::uuid,
            COALESCE(NULLIF(split_part(%(after_2)s::text, ' ', 2), ''), %(nobody)s)::uuid))
ORDER BY d.received_at DESC, d.decision_id DESC, d.organization_id DESC
LIMIT %(limit)s
