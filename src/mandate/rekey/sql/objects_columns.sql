-- Everything about a column that its type does not say. `sequences`: those it owns, its identity's too.
-- Columns of the catalogue that some versions lack are read through jsonb.
SELECT
    a.attrelid::bigint AS "table",
    a.attname AS name,
    format_type(a.atttypid, a.atttypmod) AS type,
    a.attnum AS number,
    a.attgenerated::text AS generated,
    a.attidentity::text AS identity,
    pg_get_expr(d.adbin, d.adrelid) AS expression,
    CASE WHEN a.attcollation <> y.typcollation
        THEN (SELECT ARRAY[n.nspname, c.collname] FROM pg_collation c
              JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation)
    END AS collation,
    CASE WHEN a.attstorage <> y.typstorage THEN
        CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END
    END AS storage,
    CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END AS compression,
    nullif((to_jsonb(a) ->> 'attstattarget')::integer, -1) AS statistics,
    coalesce(a.attoptions, '{}') AS options,
    (
        SELECT jsonb_agg(jsonb_build_object(
            'grantee', CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) END,
            'privilege', g.privilege_type,
            'grantable', g.is_grantable
        ) ORDER BY g.grantee, g.privilege_type)
        FROM aclexplode(a.attacl) AS g
    ) AS grants,
    col_description(a.attrelid, a.attnum) AS comment,
    (
        SELECT jsonb_build_object(
            'name', k.conname,
            'no_inherit', k.connoinherit,
            'valid', k.convalidated,
            'comment', obj_description(k.oid, 'pg_constraint')
        )
        FROM pg_constraint k
        WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
    ) AS not_null,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'schema', n.nspname,
            'name', c.relname,
            'owner', pg_get_userbyid(c.relowner),
            'type', format_type(q.seqtypid, NULL),
            'start', q.seqstart,
            'increment', q.seqincrement,
            'minimum', q.seqmin,
            'maximum', q.seqmax,
            'cache', q.seqcache,
            'cycle', q.seqcycle,
            'persistence', c.relpersistence,
            'used_elsewhere', EXISTS (
                SELECT FROM pg_depend u
                JOIN pg_attrdef e ON u.classid = 'pg_attrdef'::regclass AND u.objid = e.oid
                WHERE u.refclassid = 'pg_class'::regclass AND u.refobjid = c.oid
                  AND (e.adrelid, e.adnum) <> (a.attrelid, a.attnum)
            ),
            'grants', CASE WHEN c.relacl IS NOT NULL THEN (
                SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'grantee', CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) END,
                    'privilege', g.privilege_type,
                    'grantable', g.is_grantable
                ) ORDER BY g.grantee, g.privilege_type), '[]')
                FROM aclexplode(c.relacl) AS g
            ) END,
            'comment', obj_description(c.oid, 'pg_class')
        ) ORDER BY c.relname), '[]')
        FROM pg_depend p
        JOIN pg_class c ON c.oid = p.objid AND c.relkind = 'S'
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_sequence q ON q.seqrelid = c.oid
        WHERE p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass
          AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum AND p.deptype IN ('a', 'i')
    ) AS sequences
FROM pg_attribute a
JOIN pg_type y ON y.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY (%(tables)s::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
