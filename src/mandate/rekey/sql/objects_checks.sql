SELECT
    c.conrelid::bigint AS "table",
    c.conname AS name,
    pg_get_expr(c.conbin, c.conrelid) AS expression,
    c.convalidated AS valid,
    coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) AS enforced,
    c.connoinherit AS no_inherit,
    obj_description(c.oid, 'pg_constraint') AS comment
FROM pg_constraint c
WHERE c.contype = 'c' AND c.conrelid = ANY (%(tables)s::bigint[]::oid[])
ORDER BY c.conrelid, c.conname
