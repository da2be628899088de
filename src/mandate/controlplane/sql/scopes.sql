-- A page of scopes, by organization and id.
SELECT COALESCE(s.organization_id::text, %(nobody)s) AS position_1, s.scope_id AS position_2,
    json_build_object(
        'scope_id', s.scope_id, 'organization_id', s.organization_id, 'domain', s.domain,
        'environment', s.environment, 'service', s.service, 'agent', s.agent, 'system', s.system,
        'tenant', s.tenant, 'owning_team', s.owning_team, 'owner_contact', s.owner_contact,
        'description', s.description, 'created_at', s.created_at
    )::text AS body
FROM scope s
WHERE (%(organization_id)s::uuid IS NULL OR s.organization_id = %(organization_id)s)
    AND (%(environment)s::text IS NULL OR s.environment = %(environment)s)
    AND (%(service)s::text IS NULL OR s.service = %(service)s)
    AND (%(agent)s::text IS NULL OR s.agent = %(agent)s)
    AND (%(system)s::text IS NULL OR s.system = %(system)s)
    AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)
    AND (%(after_1)s::text IS NULL
        OR (COALESCE(s.organization_id::text, %(nobody)s), s.scope_id) > (%(after_1)s::text, %(after_2)s::text))
ORDER BY 1, 2
LIMIT %(limit)s
