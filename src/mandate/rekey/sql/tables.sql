-- Every table of the non-system schemas that holds rows of its own, with the leaves that hold them: a partitioned
-- table has one row per leaf partition (none when it has no partitions), any other table exactly one.
-- Left out: temporary tables, foreign partitions, tables that belong to an extension.
SELECT
    format('%%s.%%s', n.nspname, c.relname) AS name,
    (
        SELECT COALESCE(array_agg(a.attname::text ORDER BY a.attnum), '{}')
        FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns,
    leaf.schema AS leaf_schema,
    leaf.relation AS leaf_relation,
    leaf.bytes,
    leaf.blocks
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT
        ln.nspname::text AS schema,
        l.relname::text AS relation,
        pg_catalog.pg_table_size(l.oid) AS bytes,
        pg_catalog.pg_relation_size(l.oid) / pg_catalog.current_setting('block_size')::bigint AS blocks
    FROM pg_catalog.pg_class AS l
    JOIN pg_catalog.pg_namespace AS ln ON ln.oid = l.relnamespace
    WHERE l.relkind = 'r'
      AND (l.oid = c.oid OR (c.relkind = 'p' AND l.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid))))
) AS leaf ON true
WHERE c.relkind IN ('r', 'p')
  AND NOT c.relispartition
  AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema'
  AND n.nspname !~ '^pg_'
  AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY (%(schemas)s::text[]))
  AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend AS d
      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
  )
ORDER BY 1, 3, 4
