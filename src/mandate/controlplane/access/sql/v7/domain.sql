-- A domain of an organization by its name or its UUID, as a token holds it.
SELECT name, domain_id::text AS uuid
FROM mandate.domains
WHERE organization_id = %(organization_id)s::uuid AND (name = %(value)s OR domain_id = %(uuid)s::uuid)
ORDER BY name <> %(value)s
LIMIT 1
