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
    ) AS referred
FROM pg_constraint c
WHERE c.contype = 'f' AND c.conparentid = 0
ORDER BY c.conrelid, c.conname
