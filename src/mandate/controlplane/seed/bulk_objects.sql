-- Indexes and constraints of empty tables that can be dropped and created again without a trace, with the commands
-- for it. `place` orders the drops: foreign keys, then other indexes, then primary and unique keys; creates reversed.
WITH tables AS (
    SELECT c.oid, c.relname, c.reltablespace
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind = 'r' AND c.relname = ANY (%(tables)s)
), keys AS (
    SELECT k.oid, k.conname, k.contype, k.conrelid, k.conindid, k.confrelid,
           'ALTER TABLE mandate.' || quote_ident(t.relname) AS alter_table,
           ' ADD CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid) AS definition
    FROM pg_catalog.pg_constraint k JOIN tables t ON t.oid = k.conrelid
    WHERE k.contype IN ('f', 'p', 'u') AND k.convalidated
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_description d
                      WHERE d.classoid = 'pg_constraint'::regclass AND d.objoid = k.oid)
      -- A primary key in use by a foreign key of another table, or by anything else, stays.
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint f
                      WHERE f.contype = 'f' AND f.conindid = k.conindid AND f.oid <> k.oid
                        AND k.contype IN ('p', 'u') AND f.conrelid NOT IN (SELECT oid FROM tables))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid
                        AND d.classid NOT IN ('pg_class'::regclass, 'pg_trigger'::regclass, 'pg_constraint'::regclass))
), indexes AS (
    SELECT i.indexrelid, i.indrelid, pg_get_indexdef(i.indexrelid) AS definition, n.relname,
           EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid
                   AND k.contype IN ('p', 'u', 'x')) AS of_constraint
    FROM pg_catalog.pg_index i
    JOIN tables t ON t.oid = i.indrelid
    JOIN pg_catalog.pg_class n ON n.oid = i.indexrelid
    WHERE i.indisvalid AND i.indisready AND NOT i.indisreplident AND NOT i.indisclustered AND n.reltablespace = 0
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_description d
                      WHERE d.classoid = 'pg_class'::regclass AND d.objoid = i.indexrelid)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                      WHERE a.attrelid = i.indexrelid AND COALESCE(a.attstattarget, -1) >= 0)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indexrelid AND d.deptype <> 'i'
                        AND d.classid <> 'pg_constraint'::regclass)
)
SELECT 1 AS place, alter_table || ' DROP CONSTRAINT ' || quote_ident(conname) AS drop_command,
       alter_table || definition AS create_command
FROM keys WHERE contype = 'f'
UNION ALL
SELECT 2, 'DROP INDEX mandate.' || quote_ident(relname), definition
FROM indexes WHERE NOT of_constraint
UNION ALL
SELECT 3, alter_table || ' DROP CONSTRAINT ' || quote_ident(conname), alter_table || definition
FROM keys
WHERE contype IN ('p', 'u') AND conindid IN (SELECT indexrelid FROM indexes)
  -- Droppable only once the foreign keys upon it are.
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint f
                  WHERE f.contype = 'f' AND f.conindid = keys.conindid AND f.oid NOT IN (SELECT oid FROM keys))
ORDER BY place, drop_command
