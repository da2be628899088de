-- Every ordinary table outside the system's schemas, with its columns and the key its rows are told apart by.
SELECT
    c.oid::bigint AS oid,
    n.nspname AS schema,
    c.relname AS name,
    greatest(c.reltuples, 0)::bigint AS rows,
    pg_table_size(c.oid) AS bytes,
    pg_relation_size(c.oid) / current_setting('block_size')::bigint AS blocks,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', a.attname,
            'type', format_type(a.atttypid, a.atttypmod),
            'number', a.attnum,
            'not_null', a.attnotnull,
            'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
            'generated', a.attgenerated <> '',
            'identity', a.attidentity
        ) ORDER BY a.attnum), '[]')
        FROM pg_attribute a
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns,
    (
        SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(u.indkey::int2[]) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
        WHERE k.place <= u.indnkeyatts
    ) AS key
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
-- The primary key; else the shortest unique key that is always checked and never NULL.
LEFT JOIN LATERAL (
    SELECT i.indkey, i.indnkeyatts
    FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      AND (i.indisprimary OR i.indimmediate AND NOT EXISTS (
          SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
          WHERE k.place <= i.indnkeyatts AND NOT a.attnotnull
      ))
    ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid
    LIMIT 1
) AS u ON true
WHERE c.relkind = 'r' AND c.relpersistence = 'p'
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY 2, 3
