-- The scopes of organizations.
SELECT s.scope_id, s.organization_id::text AS organization_id, s.domain, s.environment, s.service, s.agent,
    s.scope_system AS system, s.tenant, s.owning_team, s.owner_contact, s.description,
    to_json(s.created_at) #>> '{}' AS created_at
FROM mandate.scopes s
WHERE s.organization_id = ANY (%(organizations)s::text[]::uuid[])
ORDER BY s.organization_id, s.domain, s.scope_id
