-- Clients of this database that have held a snapshot for `seconds` or longer and wait for nothing but themselves:
-- REPEATABLE READ or SERIALIZABLE, or with an open cursor. Who is not told of the sessions of others sees none of them.
SELECT
    a.pid,
    a.usename::text AS "user",
    nullif(a.application_name, '') AS application,
    a.state,
    round(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start))::bigint AS seconds
FROM pg_catalog.pg_stat_activity AS a
WHERE a.datname = pg_catalog.current_database()
  AND a.backend_type = 'client backend'
  AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.state = 'idle in transaction'
  AND a.backend_xmin IS NOT NULL
  AND a.xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(seconds)s)
ORDER BY a.xact_start, a.pid
LIMIT 5
