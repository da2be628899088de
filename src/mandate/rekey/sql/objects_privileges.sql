-- What the connected role may not do that the change needs, one line of text each. %(tables)s: the tables; %(views)s:
-- views that read them; %(functions)s: functions that are made again; %(ruled)s: relations whose rules are.
WITH tables AS (
    SELECT c.oid, format('%%s.%%s', n.nspname, c.relname) AS name, c.relowner, c.relnamespace
    FROM unnest(%(tables)s::bigint[]) AS t (oid)
    JOIN pg_class c ON c.oid = t.oid::oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
),
-- Foreign keys that cross the border of the change are taken off one side and put on the other.
borders AS (
    SELECT k.conname, k.conrelid, k.confrelid
    FROM pg_constraint k
    WHERE k.contype = 'f' AND k.conparentid = 0
      AND (k.conrelid IN (SELECT oid FROM tables)) <> (k.confrelid IN (SELECT oid FROM tables))
),
owned (what, owner) AS (
    SELECT 'table ' || name, relowner FROM tables
    UNION ALL
    SELECT format('%%s (foreign key %%s refers to %%s)', b.conrelid::regclass, b.conname, b.confrelid::regclass), c.relowner
    FROM borders b JOIN pg_class c ON c.oid = b.conrelid
    WHERE b.confrelid IN (SELECT oid FROM tables)
    UNION ALL
    SELECT 'view ' || c.oid::regclass, c.relowner
    FROM unnest(%(views)s::bigint[]) AS v (oid) JOIN pg_class c ON c.oid = v.oid::oid
    UNION ALL
    SELECT DISTINCT format('%%s (rule)', c.oid::regclass), c.relowner
    FROM unnest(%(ruled)s::bigint[]) AS r (oid) JOIN pg_class c ON c.oid = r.oid::oid
    UNION ALL
    SELECT 'function ' || p.oid::regprocedure, p.proowner
    FROM unnest(%(functions)s::bigint[]) AS f (oid) JOIN pg_proc p ON p.oid = f.oid::oid
    UNION ALL
    SELECT 'publication ' || p.pubname, p.pubowner
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
    WHERE r.prrelid IN (SELECT oid FROM tables)
),
schemas AS (
    SELECT relnamespace AS oid FROM tables
    UNION
    SELECT c.relnamespace FROM unnest(%(views)s::bigint[]) AS v (oid) JOIN pg_class c ON c.oid = v.oid::oid
)
SELECT format('%%s may not create schemas in database %%s: GRANT CREATE ON DATABASE',
    quote_ident(current_user), current_database()) AS problem
WHERE NOT has_database_privilege(current_database(), 'CREATE')
UNION ALL
SELECT DISTINCT format('%%s belongs to %%s, whose rights %%s has not: GRANT %%s TO %%s',
    what, r.rolname, current_user, quote_ident(r.rolname), quote_ident(current_user))
FROM owned JOIN pg_roles r ON r.oid = owned.owner
WHERE NOT pg_has_role(owned.owner, 'USAGE')
UNION ALL
SELECT format('%%s may not create tables in schema %%s, where the new ones go: GRANT CREATE ON SCHEMA',
    quote_ident(current_user), n.nspname)
FROM schemas JOIN pg_namespace n USING (oid)
WHERE NOT has_schema_privilege(n.oid, 'CREATE')
UNION ALL
SELECT DISTINCT format('%%s may not refer to %%s (foreign key %%s): GRANT REFERENCES, UPDATE ON it',
    quote_ident(current_user), b.confrelid::regclass, b.conname)
FROM borders b
WHERE b.conrelid IN (SELECT oid FROM tables)
  AND NOT (has_table_privilege(b.confrelid, 'REFERENCES')
      AND has_table_privilege(b.confrelid, 'UPDATE, DELETE, TRUNCATE'))
UNION ALL
SELECT format('policies hide rows of table %%s from %%s: use a role with BYPASSRLS', name, quote_ident(current_user))
FROM tables
WHERE (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = tables.oid)
  AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.rolname = current_user)
  AND ((SELECT c.relforcerowsecurity FROM pg_class c WHERE c.oid = tables.oid)
      OR NOT pg_has_role(tables.relowner, 'USAGE'))
ORDER BY 1
