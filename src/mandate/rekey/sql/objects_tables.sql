-- What a table is besides its columns: owner, storage, grants, row level security, replica identity.
SELECT
    c.oid::bigint AS oid,
    n.nspname AS schema,
    c.relname AS name,
    pg_get_userbyid(c.relowner) AS owner,
    m.amname AS method,
    s.spcname AS tablespace,
    coalesce(c.reloptions, '{}') AS options,
    coalesce(t.reloptions, '{}') AS toast_options,
    CASE WHEN c.relacl IS NOT NULL THEN (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END,
            'privilege', a.privilege_type,
            'grantable', a.is_grantable
        ) ORDER BY a.grantee, a.privilege_type), '[]')
        FROM aclexplode(c.relacl) AS a
    ) END AS grants,
    obj_description(c.oid, 'pg_class') AS comment,
    c.relreplident::text AS replica_identity,
    c.relrowsecurity AS row_security,
    c.relforcerowsecurity AS force_row_security
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am m ON m.oid = c.relam
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
WHERE c.oid = ANY (%(tables)s::bigint[]::oid[])
ORDER BY c.oid
