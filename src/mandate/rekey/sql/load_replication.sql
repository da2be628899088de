-- How far the slowest one behind is that replicates from here now. hidden: rows whose state this role may not see.
SELECT
    coalesce(max(f.lag_bytes), 0)::bigint AS lag_bytes,
    coalesce(max(f.lag_seconds), 0)::float8 AS lag_seconds,
    coalesce(bool_or(f.hidden), false) AS hidden
FROM (
    SELECT
        pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(r.replay_lsn, r.flush_lsn, r.write_lsn, r.sent_lsn)) AS lag_bytes,
        extract(epoch FROM coalesce(r.replay_lag, r.flush_lag, r.write_lag)) AS lag_seconds,
        r.state IS NULL AS hidden
    FROM pg_catalog.pg_stat_replication r
    -- A base backup replays nothing.
    WHERE r.state IS DISTINCT FROM 'backup'
    UNION ALL
    SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(s.confirmed_flush_lsn, s.restart_lsn)), NULL, false
    FROM pg_catalog.pg_replication_slots s
    WHERE s.active
) f
