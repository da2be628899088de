-- A page of one decision's timeline, in the order in which the server received it: the time that an outcome tells is its
-- caller's. What was recorded at one moment is in the order of its own times.
SELECT t.created_at::text AS position_1, t.timestamp || ' ' || t.entry_id AS position_2,
    json_build_object(
        'entry_id', t.entry_id, 'organization_id', t.organization_id, 'domain', t.domain,
        'decision_id', t.decision_id, 'intent', t.intent, 'stage', t.stage, 'actor', t.actor,
        'target', t.target, 'summary', t.summary, 'details', t.details, 'severity', t.severity,
        'event_source', t.event_source, 'authority_level', t.authority_level,
        'spec_id', t.spec_id, 'spec_version', t.spec_version, 'timestamp', t.timestamp
    )::text AS body
FROM entry t
WHERE t.decision_id = %(decision_id)s::uuid
    AND (%(organization_id)s::uuid IS NULL OR t.organization_id = %(organization_id)s)
    AND (%(after_1)s::text IS NULL
        OR (t.created_at, t.timestamp, t.entry_id) > (%(after_1)s::text::timestamptz,
            left(%(after_2)s::text, -37)::timestamptz, right(%(after_2)s::text, 36)::uuid))
ORDER BY t.created_at, t.timestamp, t.entry_id
LIMIT %(limit)s
