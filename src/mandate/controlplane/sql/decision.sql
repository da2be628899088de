-- One decision.
SELECT json_build_object(
        'decision_id', d.decision_id, 'organization_id', d.organization_id, 'domain', d.domain,
        'intent', d.intent, 'stage', d.stage, 'actor', d.actor, 'target', d.target,
        'context', d.context, 'scope', d.scope, 'timestamp', d.timestamp,
        'spec_id', d.spec_id, 'spec_version', d.spec_version
    )::text AS body
FROM decision d
WHERE d.decision_id = %(decision_id)s::uuid
    AND (%(organization_id)s::uuid IS NULL OR d.organization_id = %(organization_id)s)
