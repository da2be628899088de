-- What has a name in a schema and does not leave it together with the tables of a change; in words.
SELECT CASE c.relkind WHEN 'i' THEN 'an index' WHEN 'I' THEN 'an index' WHEN 'S' THEN 'a sequence'
    WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' ELSE 'a relation' END AS what
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE n.nspname = %(schema)s AND c.relname = %(name)s
  AND NOT coalesce(i.indrelid = ANY (%(tables)s::bigint[]::oid[]), false)
