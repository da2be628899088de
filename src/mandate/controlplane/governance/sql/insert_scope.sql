INSERT INTO mandate.scopes (scope_id, organization_id, domain, environment, service, agent, scope_system, tenant,
    owning_team, owner_contact, description)
VALUES (%(scope_id)s, %(organization_id)s::text::uuid, %(domain)s, %(environment)s, %(service)s, %(agent)s, %(system)s,
    %(tenant)s, %(owning_team)s, %(owner_contact)s, %(description)s)
RETURNING to_json(created_at) #>> '{}' AS created_at
