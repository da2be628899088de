-- Functions that hold on to tables and views: by number where their body is kept parsed (BEGIN ATOMIC), by the row types
-- in their signature, and by the types that a session remembers of a PL/pgSQL body once it has run it.
WITH relations AS (
    SELECT c.oid, n.nspname, c.relname, y.oid AS row_type, y.typarray AS array_type
    FROM unnest(%(relations)s::bigint[]) AS r (oid)
    JOIN pg_class c ON c.oid = r.oid::oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_type y ON y.oid = c.reltype
),
anew (oid) AS (
    SELECT DISTINCT d.objid
    FROM relations r
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (r.row_type, r.array_type)
        AND d.classid = 'pg_proc'::regclass AND d.deptype = 'n'
    JOIN pg_proc p ON p.oid = d.objid
    CROSS JOIN LATERAL (SELECT p.proargtypes::oid[] || p.proallargtypes || p.prorettype AS types) AS t
    WHERE r.row_type = ANY (t.types) OR r.array_type = ANY (t.types)
),
written AS MATERIALIZED (
    SELECT p.oid, p.prosrc, lower(p.prosrc) AS body
    FROM pg_proc p
    JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
    JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname !~ '^(pg_|information_schema$)' AND p.prosrc ~* '%%\s*type\M|\[|\marray\M|::|\mas\M'
),
bound (oid) AS (
    SELECT d.objid
    FROM relations r
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.classid = 'pg_proc'::regclass
    UNION
    SELECT d.objid
    FROM relations r
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (r.row_type, r.array_type)
        AND d.classid = 'pg_proc'::regclass AND d.deptype = 'n'
    UNION
    -- table.column%%TYPE, table[], and casts to the row: looked up once in a session.
    SELECT p.oid
    FROM written p
    JOIN relations r ON strpos(p.body, lower(r.relname)) > 0
    CROSS JOIN LATERAL (SELECT regexp_replace(r.relname, '([^a-zA-Z0-9_])', '\\\1', 'g') AS pattern) AS e
    WHERE p.prosrc ~* (
        '\m' || e.pattern || '\M"?(\s*\.\s*[^\s;,)]+?\s*%%\s*type\M|\s*(\[|array\M))'
        || '|(::|\mas\M)\s*("?[\w$]+"?\s*\.\s*)?"?' || e.pattern || '\M'
    )
)
SELECT
    p.oid::bigint AS oid,
    n.nspname AS schema,
    p.proname AS name,
    pg_get_functiondef(p.oid) AS definition,
    pg_get_userbyid(p.proowner) AS owner,
    p.oid IN (SELECT oid FROM anew) AS anew,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'type', format_type(a.type, NULL),
            'row_type', CASE WHEN r.oid IS NOT NULL THEN jsonb_build_array(r.nspname, r.relname) END,
            'array', coalesce(r.array_type = a.type, false)
        ) ORDER BY a.place), '[]')
        FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (type, place)
        LEFT JOIN relations r ON a.type IN (r.row_type, r.array_type)
    ) AS arguments,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'grantee', CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) END,
            'privilege', g.privilege_type,
            'grantable', g.is_grantable
        ) ORDER BY g.grantee, g.privilege_type), '[]')
        FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS g
    ) AS grants,
    obj_description(p.oid, 'pg_proc') AS comment
FROM bound
JOIN pg_proc p USING (oid)
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind <> 'a' AND n.nspname <> %(work)s
  AND NOT EXISTS (
      SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype IN ('e', 'x')
  )
ORDER BY n.nspname, p.proname, p.oid
