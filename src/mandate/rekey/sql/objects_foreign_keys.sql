-- Foreign keys from and to the tables; columns in the order of the key they refer to.
SELECT
    c.oid::bigint AS oid,
    c.conname AS name,
    c.conrelid::bigint AS child,
    cn.nspname AS child_schema,
    ct.relname AS child_name,
    c.confrelid::bigint AS parent,
    pn.nspname AS parent_schema,
    pt.relname AS parent_name,
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
    c.confmatchtype::text AS match,
    c.confupdtype::text AS on_update,
    c.confdeltype::text AS on_delete,
    (
        SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}')
        FROM jsonb_array_elements_text(coalesce(nullif(to_jsonb(c) -> 'confdelsetcols', 'null'), '[]')) AS k (number)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number::int2
    ) AS delete_columns,
    c.condeferrable AS deferrable,
    c.condeferred AS deferred,
    c.convalidated AS valid,
    coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) AS enforced,
    coalesce((to_jsonb(c) ->> 'conperiod')::boolean, false) AS period,
    obj_description(c.oid, 'pg_constraint') AS comment
FROM pg_constraint c
JOIN pg_class ct ON ct.oid = c.conrelid
JOIN pg_namespace cn ON cn.oid = ct.relnamespace
JOIN pg_class pt ON pt.oid = c.confrelid
JOIN pg_namespace pn ON pn.oid = pt.relnamespace
WHERE c.contype = 'f' AND c.conparentid = 0
  AND (c.conrelid = ANY (%(tables)s::bigint[]::oid[]) OR c.confrelid = ANY (%(tables)s::bigint[]::oid[]))
ORDER BY cn.nspname, ct.relname, c.conname
