-- The keys of the scopes that a filter means, of those that the principal sees: a readable id, of any organization, or the
-- UUID that a scope once had.
WITH seen AS NOT MATERIALIZED (
    SELECT scope_id, organization_id
    FROM mandate.scopes
    WHERE (%(principal_organization)s::uuid IS NULL OR organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR domain = ANY (%(principal_domains)s::text[]))
)
SELECT scope_id AS key, organization_id::text AS organization_id
FROM seen
WHERE scope_id = %(value)s
UNION ALL
SELECT n.scope_id, n.organization_id::text
FROM mandate.identity_map m
JOIN seen n ON n.scope_id = m.new_key AND n.organization_id = m.organization_id
WHERE m.kind = 'scope' AND m.old_key = %(uuid)s::text
    AND NOT EXISTS (SELECT FROM seen WHERE scope_id = %(value)s)
