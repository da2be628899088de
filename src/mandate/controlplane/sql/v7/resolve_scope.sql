-- The key of the scope that a filter means; in version 7 only its UUID is known.
SELECT s.scope_id::text AS key
FROM mandate.scopes s
LEFT JOIN mandate.domains n ON n.domain_id = s.domain_id
WHERE (%(principal_organization)s::uuid IS NULL OR s.organization_id = %(principal_organization)s::uuid)
    AND (%(principal_domains)s::text[] IS NULL OR n.name = ANY (%(principal_domains)s::text[]))
    AND s.scope_id = %(uuid)s::uuid AND %(value)s::text IS NOT NULL
