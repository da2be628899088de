-- Switches the policies on. The owner and superusers are not bound by them: backups and migrations see every row.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT DISTINCT polrelid::regclass AS name FROM pg_catalog.pg_policy WHERE polname = 'mandate_principal' LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', item.name);
    END LOOP;
END
$$
