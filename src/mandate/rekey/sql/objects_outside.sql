-- Ordinary tables, not of the change, that the spec's foreign keys refer to (as schema.table).
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname || '.' || c.relname = ANY (%(names)s::text[])
  AND NOT c.oid = ANY (%(tables)s::bigint[]::oid[])
ORDER BY c.oid;
