-- Views and materialised views that read one of the tables, directly or through others; those that others read first.
WITH RECURSIVE dependent (oid, depth) AS (
    SELECT t.oid, 0 FROM unnest(%(tables)s::bigint[]::oid[]) AS t (oid)
    UNION
    SELECT r.ev_class, p.depth + 1
    FROM dependent p
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = p.oid
        AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> p.oid AND r.rulename = '_RETURN'
    JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
)
SELECT
    c.oid::bigint AS oid,
    n.nspname AS schema,
    c.relname AS name,
    c.relkind = 'm' AS materialized,
    pg_get_viewdef(c.oid) AS definition,
    pg_get_userbyid(c.relowner) AS owner,
    m.amname AS method,
    s.spcname AS tablespace,
    coalesce(c.reloptions, '{}') AS options,
    c.relispopulated AS populated,
    CASE WHEN c.relacl IS NOT NULL THEN (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END,
            'privilege', a.privilege_type,
            'grantable', a.is_grantable
        ) ORDER BY a.grantee, a.privilege_type), '[]')
        FROM aclexplode(c.relacl) AS a
    ) END AS grants,
    obj_description(c.oid, 'pg_class') AS comment
FROM (SELECT oid, max(depth) AS depth FROM dependent GROUP BY oid) AS v
JOIN pg_class c ON c.oid = v.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am m ON m.oid = c.relam
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE v.depth > 0 AND c.oid <> ALL (%(tables)s::bigint[]::oid[])
ORDER BY v.depth, n.nspname, c.relname
