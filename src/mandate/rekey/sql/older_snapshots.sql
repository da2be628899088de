-- Clients of this database who began before %(now)s and may not see the swap, whose triggers %(name)s name its
-- transaction. Who is not told of the sessions of others sees none of them.
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
  AND a.xact_start < %(now)s
  AND EXISTS (
      SELECT FROM pg_catalog.pg_trigger AS t
      WHERE t.tgname = %(name)s
        AND pg_catalog.age(a.backend_xmin) >= pg_catalog.age(
            pg_catalog.rtrim(pg_catalog.encode(t.tgargs, 'escape'), '\000')::xid
        )
  )
ORDER BY a.xact_start, a.pid
LIMIT 5
