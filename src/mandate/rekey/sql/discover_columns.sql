-- The columns of an ordinary table (as schema.table), with their types in full.
SELECT c.oid::bigint AS oid, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind = 'r' AND n.nspname || '.' || c.relname = %(name)s
ORDER BY a.attnum
