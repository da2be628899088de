-- Inside the swap of 009, once the new tables are in place: what version 9 has beside them. The functions are those of the
-- hand-run file, made in this session before it locked anything.
SELECT set_config('mandate.migration_009', 'running', true);
CREATE TABLE IF NOT EXISTS mandate_conductor.migration_009_made (definition text PRIMARY KEY);
DELETE FROM mandate_conductor.migration_009_made;
-- Version 9 allows a spec to supersede the active one; going back it must get in. Made again by a rollback.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT i.indexrelid, pg_get_indexdef(i.indexrelid) AS definition FROM pg_catalog.pg_index i
                JOIN pg_temp.m009_tables() t ON t.tab = 'mandate_specs'
                WHERE i.indrelid = 'mandate_pre_009.mandate_specs'::regclass
                  AND pg_get_indexdef(i.indexrelid) ~ t.unneeded LOOP
        INSERT INTO mandate_conductor.migration_009_made VALUES (item.definition);
        EXECUTE format('DROP INDEX %s', item.indexrelid::regclass);
    END LOOP;
END
$$;
SELECT pg_temp.m009_functions();
SELECT pg_temp.m009_spec_events();
SELECT pg_temp.m009_privileges();
SELECT pg_temp.m009_log();
