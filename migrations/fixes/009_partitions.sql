-- Fix for the pre-migration check `partitions` of migration 009.
--
-- What is wrong: one of the tables has partitions or inheritance children, or is one. The migration changes each table in one
-- piece and does not know such a family.
-- What this does: lists the children. Detach them (ALTER TABLE ... DETACH PARTITION, or NO INHERIT), or bring their rows back
-- into the parent, before you migrate.
--
--   psql -h localhost -U postgres mandate < fixes/009_partitions.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT i.inhrelid::regclass, 'of', i.inhparent::regclass FROM pg_inherits i
JOIN pg_class c ON c.oid IN (i.inhrelid, i.inhparent)
WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1;
