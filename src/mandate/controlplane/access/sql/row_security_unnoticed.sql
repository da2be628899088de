-- Whether a service is connected that may not know yet of policies that are not switched on.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity
    WHERE application_name = 'mandate-serve' AND datname = current_database()
) AND EXISTS (
    SELECT FROM pg_catalog.pg_policy p
    JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
    WHERE p.polname = 'mandate_principal' AND NOT c.relrowsecurity
) AS unnoticed
