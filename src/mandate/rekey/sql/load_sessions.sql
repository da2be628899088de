-- Sessions of clients that work now, but Mandate's. hidden: some whose state this role may not see, or nobody's is kept.
SELECT
    count(*) FILTER (WHERE a.state IN ('active', 'fastpath function call'))::int AS sessions,
    coalesce(bool_or(a.state IS NULL OR a.state = 'disabled'), false) AS hidden
FROM pg_catalog.pg_stat_activity a
WHERE coalesce(a.backend_type, 'client backend') = 'client backend' AND a.datid IS NOT NULL AND a.usesysid IS NOT NULL
    AND a.pid <> pg_catalog.pg_backend_pid() AND a.application_name NOT LIKE 'mandate-%%'
