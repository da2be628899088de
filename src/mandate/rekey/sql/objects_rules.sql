-- Rules of the tables and views, and those of other relations that read or write one of them.
SELECT
    r.ev_class::bigint AS "table",
    n.nspname AS schema,
    c.relname AS table_name,
    c.relkind = 'v' AS of_view,
    r.rulename AS name,
    pg_get_ruledef(r.oid) AS definition,
    r.ev_enabled::text AS enabled,
    obj_description(r.oid, 'pg_rewrite') AS comment
FROM pg_rewrite r
JOIN pg_class c ON c.oid = r.ev_class
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.rulename <> '_RETURN'
  AND (
      r.ev_class = ANY (%(relations)s::bigint[]::oid[])
      OR EXISTS (
          SELECT FROM pg_depend d
          WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid = ANY (%(relations)s::bigint[]::oid[])
      )
  )
ORDER BY n.nspname, c.relname, r.rulename
