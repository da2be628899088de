-- A domain of an organization by its name or the UUID that it once had, as a token holds it.
SELECT n.domain AS name, m.old_key AS uuid
FROM mandate.domains n
LEFT JOIN mandate.identity_map m ON m.kind = 'domain' AND m.new_key = n.domain
    AND (m.organization_id IS NULL OR m.organization_id = n.organization_id)
WHERE n.organization_id = %(organization_id)s::uuid AND (n.domain = %(value)s OR m.old_key = %(uuid)s)
ORDER BY n.domain <> %(value)s
LIMIT 1
