-- Every foreign key between tables, its columns in the order of the key it refers to.
SELECT
    c.oid::bigint AS oid,
    c.conname AS name,
    c.conrelid::bigint AS child,
    c.confrelid::bigint AS parent,
    (
        SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number
    ) AS columns,
    (
        SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number
    ) AS referred,
    -- Why a table that has one is not among the tables.
    CASE
        WHEN t.relkind = 'p' THEN format('%s.%s is partitioned', n.nspname, t.relname)
        WHEN t.relkind <> 'r' OR t.relpersistence <> 'p'
            THEN format('%s.%s is not an ordinary table, or unlogged', n.nspname, t.relname)
    END AS refused
FROM pg_constraint c
JOIN pg_class t ON t.oid = c.conrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE c.contype = 'f' AND c.conparentid = 0
ORDER BY c.conrelid, c.conname
