-- What a running change of keys writes down. Executed with the work schema alone on the search path; safe to repeat.

-- Keys of rows that were written since capture began and that the new table may not have yet. tab: oid of the old
-- table, in both directions. key: text of the columns that tell the source's row; NULL: the whole table (truncate).
CREATE TABLE IF NOT EXISTS log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tab bigint NOT NULL,
    key text[]
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0,
        autovacuum_analyze_threshold = 5000);

-- The same for the reverse window: rows of the new tables that the retained ones may not have yet.
CREATE TABLE IF NOT EXISTS back_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tab bigint NOT NULL,
    key text[]
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0,
        autovacuum_analyze_threshold = 5000);

-- Blocks [first, last) of an old table that are in the new one, wholly. last NULL: to the end. filenode: the file they
-- were read from; another one later means that the table was rewritten and its rows are no longer where they were.
CREATE TABLE IF NOT EXISTS chunk (
    tab bigint,
    first bigint,
    last bigint,
    done_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    rows bigint NOT NULL,
    filenode bigint,
    PRIMARY KEY (tab, first)
);

-- What the throttle's probe writes, ten rows a second: how long its commits take is how the clients' fare.
CREATE TABLE IF NOT EXISTS probe (at timestamptz NOT NULL DEFAULT clock_timestamp());
