-- The names of the domains that a token holds: by their UUIDs, by name only those that the token knows no UUID of.
SELECT n.name AS domain
FROM unnest(%(names)s::text[], %(uuids)s::text[]) AS held (name, uuid)
JOIN mandate.domains n ON n.domain_id = held.uuid::uuid OR (held.uuid IS NULL AND n.name = held.name)
WHERE n.organization_id = %(organization_id)s::uuid
