-- Who has waited for `milliseconds` or longer for a strong lock on a relation because of one of the sessions `pids`.
-- What only reads is not asked for: nothing queues behind it.
SELECT DISTINCT
    b.blocker,
    l.pid,
    a.usename::text AS "user",
    nullif(a.application_name, '') AS application,
    l.mode,
    l.relation::pg_catalog.regclass::text AS relation
FROM pg_catalog.pg_locks AS l
CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) AS b (blocker)
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE NOT l.granted
  AND l.locktype = 'relation'
  AND l.mode <> 'AccessShareLock'
  AND l.waitstart < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(milliseconds)s / 1000.0)
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
  AND l.pid <> ALL (%(pids)s::int[])
  AND b.blocker = ANY (%(pids)s::int[])
