-- Whether the tables of tokens are there. Asks the catalogue, which needs no right on the schema.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'mandate_access' AND c.relname = 'tokens'
) AS found
