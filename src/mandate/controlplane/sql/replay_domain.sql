-- The name of the domain that a filter means: a name, or else the UUID that a domain has or had.
SELECT domain
FROM known
WHERE domain = %(value)s OR key = %(uuid)s
ORDER BY domain <> %(value)s
LIMIT 1
