SELECT
    r.prrelid::bigint AS "table",
    p.pubname AS name,
    (
        SELECT array_agg(a.attname::text ORDER BY a.attnum)
        FROM jsonb_array_elements_text(nullif(to_jsonb(r) -> 'prattrs', 'null')) AS k (number)
        JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k.number::int2
    ) AS columns,
    (
        SELECT to_jsonb(t) ->> 'rowfilter'
        FROM pg_publication_tables t
        WHERE t.pubname = p.pubname AND t.schemaname = n.nspname AND t.tablename = c.relname
    ) AS filter
FROM pg_publication_rel r
JOIN pg_publication p ON p.oid = r.prpubid
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.prrelid = ANY (%(tables)s::bigint[]::oid[])
ORDER BY r.prrelid, p.pubname
