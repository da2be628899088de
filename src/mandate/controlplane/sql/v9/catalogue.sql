-- What decides in one domain, as one snapshot of the database sees it: no row when there is no such domain.
-- The three figures are those that record.sql compares before it writes.
WITH wanted AS (
    SELECT organization_id, domain
    FROM mandate.domains
    WHERE organization_id = %(organization_id)s::uuid AND domain = %(domain)s
    UNION ALL
    SELECT n.organization_id, n.domain
    FROM mandate.identity_map m
    JOIN mandate.domains n ON n.organization_id = %(organization_id)s::uuid AND n.domain = m.new_key
    WHERE m.kind = 'domain' AND m.old_key = %(uuid)s::text
        AND (m.organization_id IS NULL OR m.organization_id = n.organization_id)
        AND NOT EXISTS (
            SELECT FROM mandate.domains WHERE organization_id = %(organization_id)s::uuid AND domain = %(domain)s
        )
    LIMIT 1
)
SELECT w.organization_id::text AS organization_id, w.domain, w.domain AS domain_key,
    latest.snapshot_id::text AS snapshot_id, latest.version AS snapshot_version, latest.policies,
    (
        SELECT COALESCE(jsonb_agg(jsonb_build_object(
            'scope_id', s.scope_id, 'environment', s.environment, 'service', s.service, 'agent', s.agent,
            'system', s.scope_system, 'tenant', s.tenant, 'owning_team', s.owning_team
        )), '[]')
        FROM mandate.scopes s
        WHERE s.organization_id = w.organization_id AND s.domain = w.domain
    ) AS scopes,
    (
        SELECT COALESCE(jsonb_agg(jsonb_build_object(
            'spec_id', s.spec_id, 'version', s.version, 'organization_id', s.organization_id, 'domain', s.domain,
            'intent', s.intent, 'stage', s.stage, 'allowed_verdicts', s.allowed_verdicts, 'signals', s.signals,
            'enforcement', s.enforcement
        )), '[]')
        FROM (
            SELECT DISTINCT ON (e.intent, e.stage) e.organization_id, e.spec_id, e.version, e.event
            FROM mandate.spec_events e
            WHERE e.organization_id = w.organization_id AND e.domain = w.domain
            ORDER BY e.intent, e.stage, e.position DESC
        ) last
        JOIN mandate.mandate_specs s USING (organization_id, spec_id, version)
        WHERE last.event = 'activated'
    ) AS specs, (
        SELECT count(*) FROM mandate.spec_events e
        WHERE e.organization_id = w.organization_id AND e.domain = w.domain
    ) AS spec_events
FROM wanted w
LEFT JOIN LATERAL (
    SELECT p.snapshot_id, p.version, p.policies
    FROM mandate.policy_snapshots p
    WHERE p.organization_id = w.organization_id AND p.domain = w.domain
    ORDER BY p.version DESC, p.created_at DESC, p.snapshot_id DESC
    LIMIT 1
) latest ON true
