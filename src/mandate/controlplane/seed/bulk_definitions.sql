-- Everything that says how the tables are constrained and indexed, one text each.
SELECT format('%%s %%s %%s %%s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid), k.convalidated)
       AS definition
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = 'mandate'::regnamespace AND c.relname = ANY (%(tables)s)
UNION ALL
SELECT format('%%s %%s %%s %%s', pg_get_indexdef(i.indexrelid), i.indisvalid, n.relowner::regrole, n.reloptions)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_class n ON n.oid = i.indexrelid
WHERE c.relnamespace = 'mandate'::regnamespace AND c.relname = ANY (%(tables)s)
