-- How much of the index is done that each of these processes builds, 0 to 1: half is reading the table, a fifth sorting.
SELECT
    p.pid,
    CASE
        WHEN p.phase LIKE '%%scanning table%%' THEN 0.5 * p.blocks_done / greatest(p.blocks_total, 1)
        WHEN p.phase LIKE '%%sorting%%' THEN 0.6
        WHEN p.phase LIKE '%%loading%%' THEN 0.7 + 0.3 * p.tuples_done / greatest(p.tuples_total, 1)
        ELSE 0
    END::float8 AS part
FROM pg_catalog.pg_stat_progress_create_index p
WHERE p.pid = ANY (%s)
