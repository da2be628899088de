-- Every domain with its organization.
SELECT DISTINCT k.organization_id::text AS organization_id, o.name AS organization, k.domain
FROM known k
JOIN mandate.organizations o ON o.organization_id = k.organization_id
ORDER BY organization_id, k.domain
