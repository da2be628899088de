-- The scopes of organizations. Those without a domain belong to nobody's policies.
SELECT s.scope_id::text AS scope_id, n.organization_id::text AS organization_id, n.name AS domain, s.environment,
    s.service, s.agent, s.scope_system AS system, s.tenant, s.owning_team, s.owner_contact, s.description,
    to_json(s.created_at) #>> '{}' AS created_at
FROM mandate.scopes s
JOIN mandate.domains n ON n.domain_id = s.domain_id
WHERE n.organization_id = ANY (%(organizations)s::text[]::uuid[])
ORDER BY n.organization_id, n.name, s.scope_id
