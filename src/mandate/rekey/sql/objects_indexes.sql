-- Every index, with the constraint it serves. `statistics`: column number -> target, for expressions.
SELECT
    i.indrelid::bigint AS "table",
    i.indexrelid::bigint AS oid,
    c.relname AS name,
    pg_get_indexdef(i.indexrelid) AS definition,
    i.indisunique AS "unique",
    i.indisvalid AS valid,
    i.indisclustered AS clustered,
    i.indisreplident AS replica_identity,
    s.spcname AS tablespace,
    pg_relation_size(i.indexrelid) AS bytes,
    obj_description(i.indexrelid, 'pg_class') AS comment,
    k.conname AS constraint_name,
    k.contype::text AS constraint_type,
    coalesce(k.condeferrable, false) AS deferrable,
    coalesce(k.condeferred, false) AS deferred,
    obj_description(k.oid, 'pg_constraint') AS constraint_comment,
    -- An exclusion, or a key WITHOUT OVERLAPS: no index can be built first and made a constraint after.
    k.conexclop IS NOT NULL AS exclusion,
    CASE WHEN k.conexclop IS NOT NULL THEN pg_get_constraintdef(k.oid) END AS constraint_definition,
    (
        SELECT array_agg(a.attname::text ORDER BY e.place)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS e (number, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = e.number
        WHERE e.place <= i.indnkeyatts
    ) AS columns,
    (
        SELECT coalesce(jsonb_object_agg(a.attnum, (to_jsonb(a) ->> 'attstattarget')::integer), '{}')
        FROM pg_attribute a
        WHERE a.attrelid = i.indexrelid AND (to_jsonb(a) ->> 'attstattarget')::integer >= 0
    ) AS statistics
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = ANY (%(tables)s::bigint[]::oid[])
ORDER BY i.indrelid, c.relname
