-- Inside the swap back of 008, once the old tables are in place again and the new ones aside: take away what the swap
-- made, and keep the readable ids for the next time.
INSERT INTO mandate_conductor.migration_008_scope_names (scope_id, new_scope_id)
SELECT o1, n1 FROM mandate_rekey_008.map_2
ON CONFLICT (scope_id) DO UPDATE SET new_scope_id = excluded.new_scope_id;
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT t.tgname, t.tgenabled FROM pg_catalog.pg_trigger t
                WHERE t.tgrelid = 'mandate.mandate_specs'::regclass AND NOT t.tgisinternal AND t.tgenabled <> 'D' LOOP
        EXECUTE format('ALTER TABLE mandate.mandate_specs DISABLE TRIGGER %I', item.tgname);
    END LOOP;
    UPDATE mandate.mandate_specs s SET domain = m.d1
    FROM mandate_rekey_008.map_1 m
    WHERE m.n1 = s.organization_id AND m.n2 = s.domain AND m.d1 <> m.n2;
    FOR item IN SELECT t.tgname, t.tgenabled FROM pg_catalog.pg_trigger t
                WHERE t.tgrelid = 'mandate.mandate_specs'::regclass AND NOT t.tgisinternal LOOP
        EXECUTE format('ALTER TABLE mandate.mandate_specs ENABLE TRIGGER %I', item.tgname);
    END LOOP;
    FOR item IN SELECT name, on_table FROM mandate_conductor.migration_008_made WHERE kind = 'trigger' LOOP
        EXECUTE format('DROP TRIGGER %I ON mandate.%I', item.name, item.on_table);
    END LOOP;
    FOR item IN SELECT replace(name, ' ON mandate_pre_008.', ' ON mandate.') AS definition
                FROM mandate_conductor.migration_008_made WHERE kind = 'index' LOOP
        BEGIN
            EXECUTE item.definition;
        EXCEPTION WHEN unique_violation THEN
            EXECUTE replace(item.definition, 'CREATE UNIQUE INDEX', 'CREATE INDEX');
        END;
    END LOOP;
    DROP TABLE mandate.identity_map, mandate.migration_log;
    DROP TRIGGER validate_scopes_scope_id_domain_prefix ON mandate_new_008.scopes;
    DROP FUNCTION mandate.validate_scope_id_domain_prefix();
    FOR item IN SELECT t.tgname, t.tgrelid::regclass AS aside FROM pg_catalog.pg_trigger t
                WHERE t.tgfoid = to_regprocedure('mandate.prevent_mutation()')
                  AND t.tgrelid IN (SELECT oid FROM pg_catalog.pg_class
                                    WHERE relnamespace = 'mandate_new_008'::regnamespace)
                  AND EXISTS (SELECT FROM mandate_conductor.migration_008_made WHERE kind = 'function') LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.aside);
    END LOOP;
    IF EXISTS (SELECT FROM mandate_conductor.migration_008_made WHERE kind = 'function') THEN
        DROP FUNCTION mandate.prevent_mutation();
    END IF;
END
$$;
DELETE FROM mandate_conductor.migration_008_made;
