-- The domains of organizations.
SELECT n.organization_id::text AS organization_id, n.domain, n.description, n.metadata,
    to_json(n.created_at) #>> '{}' AS created_at
FROM mandate.domains n
WHERE n.organization_id = ANY (%(organizations)s::text[]::uuid[])
ORDER BY n.organization_id, n.domain
