-- Functions whose body is kept parsed (BEGIN ATOMIC): they hold on to tables and views by number.
SELECT
    p.oid::bigint AS oid,
    n.nspname AS schema,
    p.proname AS name,
    pg_get_functiondef(p.oid) AS definition
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prosqlbody IS NOT NULL
  AND EXISTS (
      SELECT FROM pg_depend d
      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = ANY (%(relations)s::bigint[]::oid[])
  )
ORDER BY n.nspname, p.proname, p.oid
