-- Appends what became of a decision. Its entry_id is made of what it says, so the same is there once.
-- `decided` tells a decision that does not exist from an entry that does.
WITH decision AS (
    SELECT d.decision_id, d.intent, d.actor, d.target, d.organization_id, d.domain, d.spec_id, d.spec_version
    FROM mandate.decision_events d
    WHERE (%(principal_organization)s::uuid IS NULL OR d.organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR d.domain = ANY (%(principal_domains)s::text[]))
        AND d.decision_id = %(decision_id)s::uuid
        AND (%(organization_id)s::uuid IS NULL OR d.organization_id = %(organization_id)s::uuid)
), entered AS (
    INSERT INTO mandate.audit_timeline_entries
        (entry_id, decision_id, intent, stage, actor, target, summary, details, severity, event_source,
        authority_level, timestamp, created_at, organization_id, domain, spec_id, spec_version)
    SELECT %(entry_id)s::uuid, decision_id, intent, 'executed', COALESCE(%(actor)s, actor), target, %(summary)s,
        jsonb_strip_nulls(jsonb_build_object('type', 'OUTCOME', 'outcome', %(outcome)s::text,
            'traceparent', %(traceparent)s::text))
        || CASE WHEN %(body)s::jsonb ? 'details'
            THEN jsonb_build_object('details', %(body)s::jsonb -> 'details') ELSE '{}' END,
        %(severity)s, 'agent', 'agent', %(timestamp)s::timestamptz, %(received)s::timestamptz, organization_id,
        domain, spec_id, spec_version
    FROM decision
    ON CONFLICT (entry_id) DO NOTHING
    RETURNING entry_id
)
SELECT EXISTS (SELECT FROM decision) AS decided, EXISTS (SELECT FROM entered) AS created
