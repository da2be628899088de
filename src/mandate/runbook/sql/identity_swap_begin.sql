-- At the beginning of the transaction that swaps for 008, before anything is locked: what version 8 has that does not
-- depend on its tables. The functions are those of the hand-run file, made in this session before.
SELECT set_config('mandate.migration_008', 'running', true);
DELETE FROM mandate_conductor.migration_008_made;
INSERT INTO mandate_conductor.migration_008_made (kind, name)
SELECT 'function', 'prevent_mutation' WHERE to_regprocedure('mandate.prevent_mutation()') IS NULL;
CREATE TEMP TABLE m008_before ON COMMIT DROP AS
    SELECT oid FROM pg_trigger WHERE NOT tgisinternal;
SELECT pg_temp.m008_functions();
SELECT pg_temp.m008_new_tables();
SELECT pg_temp.m008_privileges();
