-- Fix for the pre-migration check `dependent_objects`.
--
-- What is wrong: views, functions, policies, rules, triggers, foreign keys or columns of other tables mention a column
-- that goes away (domain_id, a `domain` text) or changes its type (scope_id). PostgreSQL refuses to alter such a column,
-- or the object would break afterwards.
-- What this does: nothing to the database. It prints, for every view, the commands that drop it and create it again;
-- run the first before the migration, mend the second (domain_id becomes domain) and run it afterwards. Everything else
-- is named by the check itself: SELECT * FROM pg_temp.bad_dependent_objects.
-- What it cannot know: what you want an object to say in version 8.
--
--   psql -h localhost -U postgres mandate < fixes/008_dependent_objects.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

\echo '-- before the migration, dependants first'
WITH RECURSIVE going AS (
    SELECT a.attrelid, a.attnum FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p') AND NOT a.attisdropped
      AND c.relname IN ('domains', 'scopes', 'policy_snapshots', 'decision_events', 'verdict_events',
                        'audit_timeline_entries')
      AND (a.attname IN ('domain_id', 'domain') OR a.attname = 'scope_id' AND c.relname IN ('scopes', 'verdict_events'))
), views (oid, depth) AS (
    SELECT w.ev_class, 1 FROM pg_depend d JOIN going g ON g.attrelid = d.refobjid AND g.attnum = d.refobjsubid
    JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    JOIN pg_class v ON v.oid = w.ev_class AND v.relkind IN ('v', 'm')
    UNION
    SELECT w.ev_class, s.depth + 1 FROM views s JOIN pg_depend d ON d.refobjid = s.oid
    JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.ev_class <> s.oid
)
SELECT format('DROP %s %s;', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, c.oid::regclass)
FROM (SELECT oid, max(depth) AS depth FROM views GROUP BY oid) v JOIN pg_class c USING (oid)
ORDER BY v.depth DESC, c.relname;

\echo ''
\echo '-- after the migration, once mended'
WITH RECURSIVE going AS (
    SELECT a.attrelid, a.attnum FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p') AND NOT a.attisdropped
      AND c.relname IN ('domains', 'scopes', 'policy_snapshots', 'decision_events', 'verdict_events',
                        'audit_timeline_entries')
      AND (a.attname IN ('domain_id', 'domain') OR a.attname = 'scope_id' AND c.relname IN ('scopes', 'verdict_events'))
), views (oid, depth) AS (
    SELECT w.ev_class, 1 FROM pg_depend d JOIN going g ON g.attrelid = d.refobjid AND g.attnum = d.refobjsubid
    JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    JOIN pg_class v ON v.oid = w.ev_class AND v.relkind IN ('v', 'm')
    UNION
    SELECT w.ev_class, s.depth + 1 FROM views s JOIN pg_depend d ON d.refobjid = s.oid
    JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.ev_class <> s.oid
)
SELECT format('CREATE %s %s AS %s', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, c.oid::regclass,
              pg_get_viewdef(c.oid))
FROM (SELECT oid, max(depth) AS depth FROM views GROUP BY oid) v JOIN pg_class c USING (oid)
ORDER BY v.depth, c.relname;
