-- After the swap of 008, before anything is written to the tables that it put aside. Safe to repeat.
-- Inside the swap it would be a file to remove: clients would wait until that is on the disk.
-- Version 8 allows scopes with equal selectors; going back they must get in. Made again by a rollback.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT i.indexrelid, pg_get_indexdef(i.indexrelid) AS definition FROM pg_index i
                WHERE i.indrelid = 'mandate_pre_008.scopes'::regclass AND i.indisunique
                  AND pg_get_indexdef(i.indexrelid) ~ 'COALESCE\(scope_domain.*COALESCE\(tenant' LOOP
        INSERT INTO mandate_conductor.migration_008_made (kind, name) VALUES ('index', item.definition);
        EXECUTE format('DROP INDEX %s', item.indexrelid::regclass);
    END LOOP;
END
$$;
