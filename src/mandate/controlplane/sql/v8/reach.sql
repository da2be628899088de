-- The names of the domains that a token holds: by the UUIDs that they once had, by name only those without one.
SELECT n.domain
FROM unnest(%(names)s::text[], %(uuids)s::text[]) AS held (name, uuid)
JOIN mandate.domains n ON n.organization_id = %(organization_id)s::uuid AND (
    (held.uuid IS NULL AND n.domain = held.name)
    OR n.domain = (
        SELECT m.new_key
        FROM mandate.identity_map m
        WHERE m.kind = 'domain' AND m.old_key = held.uuid
            AND (m.organization_id IS NULL OR m.organization_id = n.organization_id)
    )
)
