-- A page of domains, by organization and name.
SELECT n.organization_id::text AS position_1, n.domain AS position_2,
    json_build_object(
        'organization_id', n.organization_id, 'domain', n.domain, 'description', n.description,
        'metadata', n.metadata, 'created_at', n.created_at
    )::text AS body
FROM domain n
WHERE (%(organization_id)s::uuid IS NULL OR n.organization_id = %(organization_id)s)
    AND (%(after_1)s::text IS NULL OR (n.organization_id, n.domain) > (%(after_1)s::text::uuid, %(after_2)s::text))
ORDER BY n.organization_id, n.domain
LIMIT %(limit)s
