-- The keys of the domains that a filter means: a name (of any organization), or a UUID where no domain has it as name.
SELECT domain_id::text AS key, organization_id::text AS organization_id
FROM mandate.domains
WHERE name = %(value)s
UNION ALL
SELECT domain_id::text, organization_id::text
FROM mandate.domains
WHERE domain_id = %(uuid)s::uuid
    AND NOT EXISTS (SELECT FROM mandate.domains WHERE name = %(value)s)
