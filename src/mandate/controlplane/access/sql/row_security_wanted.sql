-- Whether the service has to say whose rows a statement is about. So from the moment that the policies are there,
-- which is before they are switched on.
SELECT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polname = 'mandate_principal') AS wanted
