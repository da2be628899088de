INSERT INTO mandate.domains (organization_id, domain, description, metadata)
VALUES (%(organization_id)s::text::uuid, %(domain)s, %(description)s, %(metadata)s)
RETURNING to_json(created_at) #>> '{}' AS created_at
