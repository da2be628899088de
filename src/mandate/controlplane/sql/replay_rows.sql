-- Decisions with each of their verdicts, oldest first. What many rows share comes last, in one piece.
-- Before it what the timeline notes of how the decision was given, where that decides: a text, or attribution that is not
-- complete. It is not looked for where there is none.
SELECT d.decision_id, d.timestamp, d.actor, d.target, d.context, d.scope, noted.details,
    d.organization_id, d.domain, d.intent, d.stage, d.spec_id, d.spec_version,
    v.verdict, array_to_json(v.matched_policy_ids), v.snapshot_id, v.organization_id, v.domain, v.spec_id, v.spec_version
FROM decision d
LEFT JOIN verdict v ON v.decision_id = d.decision_id /* tenant: v, d */
LEFT JOIN LATERAL (
    SELECT t.details
    FROM mandate.audit_timeline_entries t
    WHERE (%(texts)s::boolean OR d.spec_id IS NULL) AND t.decision_id = d.decision_id /* tenant: t, d */
        AND t.details ->> 'type' = 'DECISION_RECORDED' AND t.details ?| '{unstructured_context,given}'
    ORDER BY t.timestamp, t.entry_id
    LIMIT 1
) noted ON true
WHERE (d.timestamp, d.decision_id) > (%(after_time)s::timestamptz, %(after_id)s::uuid)
    AND d.received_at >= %(since)s::timestamptz AND d.received_at < %(until)s::timestamptz
    AND d.received_at <= %(received)s::timestamptz
    AND (%(organizations)s::uuid[] IS NULL
        OR (d.organization_id, d.domain) IN (SELECT * FROM unnest(%(organizations)s::uuid[], %(domains)s::text[])))
    AND (%(organization_id)s::uuid IS NULL OR d.organization_id = %(organization_id)s::uuid)
    AND (%(domain)s::text IS NULL OR d.domain = %(domain)s)
    AND (%(intent)s::text IS NULL OR d.intent = %(intent)s)
    AND (d.timestamp, d.decision_id) <= (%(upto_time)s::timestamptz, %(upto_id)s::uuid)
ORDER BY d.timestamp, d.decision_id, d.organization_id, v.timestamp, v.verdict_id
