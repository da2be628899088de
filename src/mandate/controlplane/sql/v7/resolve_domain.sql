-- The keys of the domains that a filter means: a name (of any organization), or a UUID where no domain has it as name.
WITH seen AS NOT MATERIALIZED (
    SELECT domain_id, name, organization_id
    FROM mandate.domains
    WHERE (%(principal_organization)s::uuid IS NULL OR organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR name = ANY (%(principal_domains)s::text[]))
)
SELECT domain_id::text AS key, organization_id::text AS organization_id
FROM seen
WHERE name = %(value)s
UNION ALL
SELECT domain_id::text, organization_id::text
FROM seen
WHERE domain_id = %(uuid)s::uuid
    AND NOT EXISTS (SELECT FROM seen WHERE name = %(value)s)
