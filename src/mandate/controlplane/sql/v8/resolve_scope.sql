-- The key of the scope that a filter means: its readable id, or the UUID that it once had.
SELECT scope_id AS key
FROM mandate.scopes
WHERE scope_id = %(value)s
UNION ALL
SELECT new_key
FROM mandate.identity_map
WHERE kind = 'scope' AND old_key = %(uuid)s::text
    AND NOT EXISTS (SELECT FROM mandate.scopes WHERE scope_id = %(value)s)
