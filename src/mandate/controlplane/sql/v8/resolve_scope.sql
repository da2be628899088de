-- The key of the scope that a filter means, of those that the principal sees: its readable id, or the UUID that it once
-- had.
WITH seen AS NOT MATERIALIZED (
    SELECT scope_id
    FROM mandate.scopes
    WHERE (%(principal_organization)s::uuid IS NULL OR organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR domain = ANY (%(principal_domains)s::text[]))
)
SELECT scope_id AS key
FROM seen
WHERE scope_id = %(value)s
UNION ALL
SELECT m.new_key
FROM mandate.identity_map m
JOIN seen n ON n.scope_id = m.new_key
WHERE kind = 'scope' AND old_key = %(uuid)s::text
    AND NOT EXISTS (SELECT FROM seen WHERE scope_id = %(value)s)
