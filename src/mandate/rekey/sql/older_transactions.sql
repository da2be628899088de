-- Transactions of this database that have written something and began before the one numbered `xmax`. From pg_locks,
-- because pg_stat_activity tells only privileged roles about the transactions of others.
SELECT
    l.pid,
    p.gid,
    coalesce(a.usename, p.owner)::text AS "user",
    a.application_name AS application
FROM pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot()) AS x (id)
JOIN pg_catalog.pg_locks AS l
    ON l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.transactionid = x.id::xid
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_prepared_xacts AS p ON p.transaction = l.transactionid
WHERE x.id < %(xmax)s::text::xid8
  AND coalesce(a.datname, p.database) = pg_catalog.current_database()
ORDER BY x.id
