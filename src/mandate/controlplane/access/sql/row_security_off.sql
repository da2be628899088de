-- Takes the second wall down again, policies and all.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT polrelid::regclass AS name, polname FROM pg_catalog.pg_policy
                WHERE polname IN ('mandate_principal', 'mandate_auditor') ORDER BY 1, 2 LOOP
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', item.name);
        EXECUTE format('DROP POLICY %I ON %s', item.polname, item.name);
    END LOOP;
END
$$
