-- The scopes of one domain.
SELECT scope_id, environment, service, agent, system, tenant, owning_team
FROM place
WHERE organization_id = %(organization_id)s::uuid AND domain = %(domain)s
ORDER BY scope_id
