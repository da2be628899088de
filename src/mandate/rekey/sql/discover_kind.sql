-- What a relation called schema.name is instead of an ordinary table; NULL for one.
SELECT
    CASE
        WHEN n.nspname ~ '^pg_' OR n.nspname = 'information_schema' THEN 'of the system'
        WHEN c.relkind = 'p' THEN 'a partitioned table'
        WHEN c.relkind = 'v' THEN 'a view'
        WHEN c.relkind = 'm' THEN 'a materialized view'
        WHEN c.relkind = 'f' THEN 'a foreign table'
        WHEN c.relkind <> 'r' THEN 'no table'
        WHEN c.relpersistence = 'u' THEN 'unlogged'
        WHEN c.relpersistence = 't' THEN 'temporary'
    END AS kind
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = %s
