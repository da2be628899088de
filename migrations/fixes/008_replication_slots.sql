-- Fix for the pre-migration check `replication_slots`.
--
-- What is wrong: a logical replication slot follows this database. It would keep all the WAL of the rewrite, and its
-- consumer would meet tables of another shape.
-- What this does: prints the command that drops each slot. Stop its consumer first, and tell its owner: it has to start
-- anew afterwards.
--
--   psql -h localhost -U postgres mandate < fixes/008_replication_slots.sql

\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' | '

SET search_path = pg_catalog;

SELECT format('SELECT pg_drop_replication_slot(%L); -- plugin %s, %s', slot_name, plugin,
              CASE WHEN active THEN 'in use by pid ' || active_pid ELSE 'not in use' END)
FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() ORDER BY slot_name;
