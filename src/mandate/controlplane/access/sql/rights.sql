-- What whoever is connected may do beyond reading and appending.
SELECT r.rolsuper AS superuser, r.rolbypassrls AS bypasses,
    COALESCE((SELECT pg_catalog.pg_has_role(c.relowner, 'MEMBER') FROM pg_catalog.pg_class c
        WHERE c.oid = to_regclass('mandate.decision_events')), false) AS owner
FROM pg_catalog.pg_roles r
WHERE r.rolname = current_user
