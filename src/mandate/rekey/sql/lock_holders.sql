-- Who holds a lock on one of the tables (quoted names) that conflicts with taking SHARE ROW EXCLUSIVE or more.
-- Whoever has held it for longest comes first.
SELECT DISTINCT
    l.pid,
    p.gid,
    coalesce(a.usename, p.owner, 'autovacuum')::text AS "user",
    coalesce(nullif(a.application_name, ''), a.backend_type) AS application,
    l.relation::pg_catalog.regclass::text AS relation,
    coalesce(a.state, a.backend_type, 'prepared') AS state,
    round(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)))::bigint AS seconds,
    coalesce(a.xact_start, p.prepared) AS since
FROM pg_catalog.pg_locks AS l
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
-- A prepared transaction has no process; the lock on its own number says which one it is.
LEFT JOIN pg_catalog.pg_locks AS t
    ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid' AND t.granted
    AND t.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_catalog.pg_prepared_xacts AS p ON p.transaction = t.transactionid
WHERE l.locktype = 'relation'
  AND l.granted
  AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND l.relation IN (SELECT pg_catalog.to_regclass(t.name) FROM pg_catalog.unnest(%(tables)s::text[]) AS t (name))
ORDER BY since NULLS LAST, relation, l.pid, p.gid
LIMIT 5
