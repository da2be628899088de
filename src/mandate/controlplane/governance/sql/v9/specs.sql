-- Every version of the specs of organizations; the last event about a domain, intent and stage says which is in force.
SELECT s.spec_id, s.version, s.organization_id::text AS organization_id, s.domain, s.intent, s.stage::text AS stage,
    CASE WHEN last.event = 'activated' AND last.spec_id = s.spec_id AND last.version = s.version THEN 'active'
        WHEN s.status = 'active' OR EXISTS (
            SELECT FROM mandate.spec_events e
            WHERE e.organization_id = s.organization_id AND e.domain = s.domain AND e.intent = s.intent
                AND e.stage = s.stage AND e.spec_id = s.spec_id AND e.version = s.version
        ) THEN 'deprecated'
        ELSE s.status END AS status, s.allowed_verdicts::text[] AS allowed_verdicts, s.signals, s.enforcement,
    s.replaced_by, to_json(s.created_at) #>> '{}' AS created_at
FROM mandate.mandate_specs s
LEFT JOIN LATERAL (
    SELECT e.event, e.spec_id, e.version
    FROM mandate.spec_events e
    WHERE e.organization_id = s.organization_id AND e.domain = s.domain AND e.intent = s.intent AND e.stage = s.stage
    ORDER BY e.position DESC
    LIMIT 1
) last ON true
WHERE s.organization_id = ANY (%(organizations)s::text[]::uuid[])
ORDER BY s.organization_id, s.domain, s.spec_id, s.version
