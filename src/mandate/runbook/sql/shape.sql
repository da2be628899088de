SELECT c.relname AS "table", a.attname AS "column", format_type(a.atttypid, NULL) AS type
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'mandate' AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
