-- The keys of the domains that a filter means: a name (of any organization that the principal sees), or the UUID that a
-- domain once had.
WITH seen AS NOT MATERIALIZED (
    SELECT domain, organization_id
    FROM mandate.domains
    WHERE (%(principal_organization)s::uuid IS NULL OR organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR domain = ANY (%(principal_domains)s::text[]))
)
SELECT domain AS key, organization_id::text AS organization_id
FROM seen
WHERE domain = %(value)s
UNION ALL
SELECT n.domain, n.organization_id::text
FROM mandate.identity_map m
JOIN seen n
    ON n.domain = m.new_key AND (m.organization_id IS NULL OR n.organization_id = m.organization_id)
WHERE m.kind = 'domain' AND m.old_key = %(uuid)s::text
    AND NOT EXISTS (SELECT FROM seen WHERE domain = %(value)s)
