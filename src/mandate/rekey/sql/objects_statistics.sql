SELECT
    s.stxrelid::bigint AS "table",
    n.nspname AS schema,
    s.stxname AS name,
    pg_get_statisticsobjdef(s.oid) AS definition,
    pg_get_userbyid(s.stxowner) AS owner,
    nullif((to_jsonb(s) ->> 'stxstattarget')::integer, -1) AS target,
    obj_description(s.oid, 'pg_statistic_ext') AS comment
FROM pg_statistic_ext s
JOIN pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid = ANY (%(tables)s::bigint[]::oid[])
ORDER BY s.stxrelid, s.stxname
