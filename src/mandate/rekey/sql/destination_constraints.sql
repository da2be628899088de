-- Foreign keys that refer to one of the destinations (quoted names, with the numbers they go by), and whether they do
-- nothing when a row is deleted and comes back within a transaction.
SELECT
    t.tab,
    c.conname AS name,
    c.conrelid::pg_catalog.regclass::text AS child,
    c.confupdtype = 'a' AND c.confdeltype = 'a' AND c.condeferred AS harmless
FROM unnest(%(tabs)s::bigint[], %(names)s::text[]) AS t (tab, name)
JOIN pg_catalog.pg_constraint AS c ON c.contype = 'f' AND c.confrelid = pg_catalog.to_regclass(t.name)
