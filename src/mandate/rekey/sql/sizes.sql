-- What each table and materialised view takes on disk, and how wide its rows are on average.
SELECT
    c.oid::bigint AS oid,
    greatest(c.reltuples, 0)::bigint AS rows,
    pg_relation_size(c.oid) AS heap_bytes,
    CASE WHEN c.reltoastrelid <> 0 THEN pg_total_relation_size(c.reltoastrelid) ELSE 0 END AS toast_bytes,
    pg_indexes_size(c.oid) AS index_bytes,
    s.spcname AS tablespace,
    (
        SELECT coalesce(jsonb_object_agg(a.attname, coalesce(p.avg_width,
            CASE WHEN a.attlen > 0 THEN a.attlen ELSE 16 END)), '{}')
        FROM pg_attribute a
        LEFT JOIN pg_stats p ON p.schemaname = n.nspname AND p.tablename = c.relname AND p.attname = a.attname
            AND NOT p.inherited
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS widths
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE c.oid = ANY (%(relations)s::bigint[]::oid[])
