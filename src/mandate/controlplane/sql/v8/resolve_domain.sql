-- The keys of the domains that a filter means: a name (of any organization), or the UUID that a domain once had.
SELECT domain AS key, organization_id::text AS organization_id
FROM mandate.domains
WHERE domain = %(value)s
UNION ALL
SELECT n.domain, n.organization_id::text
FROM mandate.identity_map m
JOIN mandate.domains n
    ON n.domain = m.new_key AND (m.organization_id IS NULL OR n.organization_id = m.organization_id)
WHERE m.kind = 'domain' AND m.old_key = %(uuid)s::text
    AND NOT EXISTS (SELECT FROM mandate.domains WHERE domain = %(value)s)
