-- Whether what is recorded under a decision_id says the same as a body that was posted again.
SELECT d.organization_id = %(organization_id)s::uuid AND d.domain = %(domain)s AND d.intent = %(intent)s
    AND d.stage = %(stage)s::mandate.stage AND d.actor = %(actor)s AND d.target = %(target)s
    AND d.context = COALESCE(NULLIF(%(body)s::jsonb -> 'context', 'null'), '{}')
    AND d.scope = COALESCE(NULLIF(%(body)s::jsonb -> 'scope', 'null'), '{}')
    AND (%(timestamp)s::timestamptz IS NULL OR d.timestamp = %(timestamp)s::timestamptz)
    AND r.details ->> 'unstructured_context' IS NOT DISTINCT FROM %(text)s::text
    AND r.details -> 'given' IS NOT DISTINCT FROM %(given)s::jsonb AS same
FROM decision d
LEFT JOIN LATERAL (
    SELECT t.details
    FROM mandate.audit_timeline_entries t
    WHERE t.decision_id = d.decision_id AND t.details ->> 'type' = 'DECISION_RECORDED'
    ORDER BY t.timestamp, t.entry_id
    LIMIT 1
) r ON true
WHERE d.decision_id = %(decision_id)s::uuid
