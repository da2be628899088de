-- Fix for the pre-migration check `publications`.
--
-- What is wrong: a table that changes is in a publication. Subscribers would get rows of a shape that they do not have.
-- What this does: prints the commands that take the tables out and put them back; stop and rebuild the subscribers
-- yourself. A publication FOR ALL TABLES or of a schema has to be dropped and made again.
--
--   psql -h localhost -U postgres mandate < fixes/008_publications.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT CASE WHEN p.puballtables OR NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid
                                               AND r.prrelid = to_regclass('mandate.' || t.tablename))
            THEN format('DROP PUBLICATION %I; -- covers %I as a whole', p.pubname, t.tablename)
            ELSE format('ALTER PUBLICATION %I DROP TABLE mandate.%I; -- afterwards: ALTER PUBLICATION %1$I ADD TABLE mandate.%2$I',
                        p.pubname, t.tablename) END
FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname WHERE t.schemaname = 'mandate'
ORDER BY 1;
