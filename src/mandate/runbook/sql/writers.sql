-- Who could write to this database right now, besides the session that asks.
--
-- Every backend connected to it counts but PostgreSQL's own: a session that has only read so far can write
-- in its next statement, and so can a background worker of an extension or of a subscription. For a role
-- without pg_read_all_stats other users' details are NULL; a backend without a user is PostgreSQL's own.
SELECT
    a.pid,
    coalesce(a.backend_type, 'unknown') AS kind,
    coalesce(a.usename, '') AS "user",
    coalesce(a.application_name, '') AS application,
    coalesce(host(a.client_addr), CASE WHEN a.client_port = -1 THEN 'local socket' ELSE '' END) AS address,
    coalesce(a.state, '') AS state,
    coalesce(a.xact_start, a.state_change, a.backend_start) AS since,
    coalesce(a.query, '') AS query
FROM pg_stat_activity a
WHERE a.datname = current_database()
  AND a.pid <> pg_backend_pid()
  AND a.usesysid IS NOT NULL
  AND coalesce(a.backend_type, 'unknown') NOT IN ('autovacuum worker', 'walsender', 'parallel worker')

UNION ALL

SELECT NULL, 'prepared transaction', p.owner, '', '', 'prepared', p.prepared, p.gid
FROM pg_prepared_xacts p
WHERE p.database = current_database()

ORDER BY since NULLS LAST, pid
