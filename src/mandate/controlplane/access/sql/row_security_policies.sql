-- The second wall, made and not yet switched on. The service says in each transaction whose rows it is about, in
-- mandate.organization_id (UUIDs with commas between, or *) and mandate.domains (an array, or *). Not said: no rows.
DO $$
DECLARE
    item record;
    organization text := $q$(SELECT string_to_array(NULLIF(NULLIF(current_setting('mandate.organization_id', true), ''),
        '*'), ',')::uuid[])$q$;
    domains text := $q$(SELECT NULLIF(NULLIF(current_setting('mandate.domains', true), ''), '*')::text[])$q$;
    every_organization text := $q$(SELECT current_setting('mandate.organization_id', true) = '*')$q$;
    every_domain text := $q$(SELECT current_setting('mandate.domains', true) = '*')$q$;
    condition text;
BEGIN
    FOR item IN
        SELECT c.relname, EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = c.oid AND attname = 'domain') AS has_domain
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p')
    LOOP
        condition := format('(%s OR organization_id = ANY (%s::uuid[]))', every_organization, organization);
        IF item.relname = 'identity_map' THEN
            condition := format('(organization_id IS NULL OR %s)', condition);
        ELSIF item.has_domain THEN
            condition := format('%s AND (%s OR domain = ANY (%s::text[]))', condition, every_domain, domains);
        END IF;
        EXECUTE format('DROP POLICY IF EXISTS mandate_principal ON mandate.%I', item.relname);
        EXECUTE format('CREATE POLICY mandate_principal ON mandate.%I USING (%s) WITH CHECK (%s)', item.relname,
            condition, condition);
        EXECUTE format('DROP POLICY IF EXISTS mandate_auditor ON mandate.%I', item.relname);
        EXECUTE format('CREATE POLICY mandate_auditor ON mandate.%I FOR SELECT TO mandate_auditor USING (true)',
            item.relname);
    END LOOP;
END
$$
