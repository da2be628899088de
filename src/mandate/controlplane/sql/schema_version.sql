-- Which version of Mandate's schema this database has: 7, 8, 9, or NULL when it is none.
SELECT CASE
    WHEN bool_or(column_name = 'decision_events.received_at') AND bool_or(column_name = 'spec_events.position') THEN 9
    WHEN bool_or(column_name = 'decision_events.received_at') THEN NULL
    WHEN NOT bool_or(column_name = 'decision_events.domain_id') AND bool_or(column_name = 'decision_events.domain')
        AND NOT bool_or(column_name = 'domains.domain_id') AND bool_or(column_name = 'domains.domain') THEN 8
    WHEN bool_or(column_name = 'decision_events.domain_id') AND bool_or(column_name = 'domains.domain_id')
        AND bool_or(column_name = 'domains.name') THEN 7
END AS version
FROM (
    SELECT c.relname || '.' || a.attname AS column_name
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'mandate')
        AND c.relname IN ('domains', 'decision_events', 'spec_events')
) columns
