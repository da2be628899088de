-- One timeline entry of a decision.
SELECT json_build_object(
        'entry_id', t.entry_id, 'organization_id', t.organization_id, 'domain', t.domain,
        'decision_id', t.decision_id, 'intent', t.intent, 'stage', t.stage, 'actor', t.actor,
        'target', t.target, 'summary', t.summary, 'details', t.details, 'severity', t.severity,
        'event_source', t.event_source, 'authority_level', t.authority_level,
        'spec_id', t.spec_id, 'spec_version', t.spec_version, 'timestamp', t.timestamp
    )::text AS body
FROM entry t
WHERE t.decision_id = %(decision_id)s::uuid AND t.entry_id = %(entry_id)s::uuid
    AND (%(organization_id)s::uuid IS NULL OR t.organization_id = %(organization_id)s)
