-- Policies of the tables, and those of other tables that read one of them. `reads`: relations of %(relations)s.
SELECT
    p.polrelid::bigint AS "table",
    n.nspname AS schema,
    c.relname AS table_name,
    p.polname AS name,
    p.polpermissive AS permissive,
    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
        ELSE 'ALL' END AS command,
    (
        SELECT array_agg(CASE WHEN r.oid <> 0 THEN pg_get_userbyid(r.oid)::text END)
        FROM unnest(p.polroles) AS r (oid)
    ) AS roles,
    pg_get_expr(p.polqual, p.polrelid) AS using,
    pg_get_expr(p.polwithcheck, p.polrelid) AS with_check,
    obj_description(p.oid, 'pg_policy') AS comment,
    coalesce(d.reads, '{}') AS reads
FROM pg_policy p
JOIN pg_class c ON c.oid = p.polrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT array_agg(DISTINCT e.refobjid::bigint) AS reads
    FROM pg_depend e
    WHERE e.classid = 'pg_policy'::regclass AND e.objid = p.oid AND e.refclassid = 'pg_class'::regclass
      AND e.deptype = 'n' AND e.refobjid = ANY (%(relations)s::bigint[]::oid[])
) AS d ON true
WHERE p.polrelid = ANY (%(tables)s::bigint[]::oid[])
   OR cardinality(array_remove(d.reads, p.polrelid::bigint)) > 0
ORDER BY p.polrelid, p.polname
