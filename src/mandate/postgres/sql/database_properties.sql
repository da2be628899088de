-- What pg_dump leaves out of a restore into another name: how the database itself was made and set.
-- "version_specific" is the whole pg_database row: locale columns came and went between 14 and 18.
SELECT
    pg_catalog.pg_get_userbyid(d.datdba)::text AS owner,
    pg_catalog.pg_encoding_to_char(d.encoding)::text AS encoding,
    d.datcollate::text AS "collate",
    d.datctype::text AS ctype,
    t.spcname::text AS tablespace,
    d.datconnlimit AS connection_limit,
    pg_catalog.shobj_description(d.oid, 'pg_database') AS comment,
    pg_catalog.to_jsonb(d) AS version_specific,
    (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'grantee', CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
            'privilege', a.privilege_type,
            'grantable', a.is_grantable
        ) ORDER BY a.grantee, a.privilege_type)
        FROM pg_catalog.aclexplode(d.datacl) AS a
    ) AS grants,
    d.datacl IS NOT NULL AS has_grants,
    (
        SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'role', r.rolname,
            'name', pg_catalog.split_part(item, '=', 1),
            'value', pg_catalog.substr(item, pg_catalog.strpos(item, '=') + 1)
        ) ORDER BY r.rolname NULLS FIRST, item), '[]')
        FROM pg_catalog.pg_db_role_setting AS s
        LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
        CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS item
        WHERE s.setdatabase = d.oid
    ) AS settings
FROM pg_catalog.pg_database AS d
JOIN pg_catalog.pg_tablespace AS t ON t.oid = d.dattablespace
WHERE d.datname = %(database)s
