-- The key of the scope that a filter means; in version 7 only its UUID is known.
SELECT scope_id::text AS key
FROM mandate.scopes
WHERE scope_id = %(uuid)s::uuid AND %(value)s::text IS NOT NULL
