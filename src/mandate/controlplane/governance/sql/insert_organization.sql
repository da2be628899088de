INSERT INTO mandate.organizations (organization_id, name, description, metadata)
VALUES (%(organization_id)s::text::uuid, %(name)s, %(description)s, %(metadata)s)
RETURNING to_json(created_at) #>> '{}' AS created_at
