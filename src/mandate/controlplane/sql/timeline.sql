-- A page of one decision's timeline, in the order in which it happened.
SELECT t.timestamp::text AS position_1, t.entry_id::text AS position_2,
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
        OR (t.timestamp, t.entry_id) > (%(after_1)s::text::timestamptz, %(after_2)s::text::uuid))
ORDER BY t.timestamp, t.entry_id
LIMIT %(limit)s
