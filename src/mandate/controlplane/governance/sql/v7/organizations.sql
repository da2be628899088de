-- Organizations by id or name; all of them where `every` is true.
SELECT o.organization_id::text AS organization_id, o.name, o.description, o.metadata,
    to_json(o.created_at) #>> '{}' AS created_at
FROM mandate.organizations o
WHERE %(every)s::boolean OR o.name = ANY (%(names)s::text[]) OR o.organization_id::text = ANY (%(ids)s::text[])
ORDER BY o.name, o.organization_id
