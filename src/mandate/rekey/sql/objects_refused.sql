-- What cannot be carried, one line of text each. %(tables)s: the tables; %(views)s: views that read them;
-- %(changed_tables)s, %(changed_columns)s: columns that go away or get another name, as two arrays; %(gone_tables)s,
-- %(gone_columns)s: those of them that no one column stands for.
WITH tables (oid) AS (
    SELECT t.oid::oid FROM unnest(%(tables)s::bigint[]) AS t (oid)
),
relations (oid) AS (
    SELECT oid FROM tables UNION SELECT v.oid::oid FROM unnest(%(views)s::bigint[]) AS v (oid)
),
named AS (
    SELECT c.oid, format('%%s.%%s', n.nspname, c.relname) AS name, c.relkind, c.relname, n.nspname,
        c.relispartition, c.reloftype, c.reltype, r.oid IN (SELECT oid FROM tables) AS is_table
    FROM relations r JOIN pg_class c ON c.oid = r.oid JOIN pg_namespace n ON n.oid = c.relnamespace
),
changed AS (
    SELECT c.t::oid AS oid, c.name, a.attnum
    FROM unnest(%(changed_tables)s::bigint[], %(changed_columns)s::text[]) AS c (t, name)
    JOIN pg_attribute a ON a.attrelid = c.t::oid AND a.attname = c.name
),
gone AS (
    SELECT changed.* FROM changed
    JOIN unnest(%(gone_tables)s::bigint[], %(gone_columns)s::text[]) AS g (t, name)
        ON changed.oid = g.t::oid AND changed.name = g.name
),
row_types (oid, name) AS (
    SELECT t.oid, named.name
    FROM named
    JOIN pg_type y ON y.oid = named.reltype
    CROSS JOIN LATERAL (VALUES (y.oid), (y.typarray)) AS t (oid)
),
-- Functions that are made again, where a row type is in their signature not as the same function.
carried (oid, types) AS (
    SELECT p.oid, p.proargtypes::oid[] || p.proallargtypes || p.prorettype
    FROM pg_proc p
    WHERE p.prokind <> 'a' AND NOT EXISTS (
        SELECT FROM pg_depend e
        WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype IN ('e', 'x')
    )
),
made (oid, name) AS (
    SELECT carried.oid, min(row_types.name)
    FROM row_types
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = row_types.oid AND d.deptype = 'n'
        AND d.classid = 'pg_proc'::regclass
    JOIN carried ON carried.oid = d.objid AND row_types.oid = ANY (carried.types)
    GROUP BY carried.oid
)
SELECT format('%%s is a partition', name) AS problem FROM named WHERE relispartition
UNION ALL
SELECT format('%%s is part of an inheritance tree', name) FROM named
WHERE NOT relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE named.oid IN (i.inhrelid, i.inhparent))
UNION ALL
SELECT format('%%s is a typed table (of %%s)', name, reloftype::regtype) FROM named WHERE reloftype <> 0
UNION ALL
SELECT format('%%s belongs to extension %%s', named.name, e.extname)
FROM named
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = named.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
UNION ALL
-- The row type stays with the table that goes away. Functions are made again.
SELECT DISTINCT format('%%s uses the row type of %%s', pg_describe_object(d.classid, d.objid, d.objsubid), row_types.name)
FROM row_types
JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = row_types.oid AND d.deptype = 'n'
WHERE d.classid <> 'pg_proc'::regclass OR d.objid NOT IN (SELECT oid FROM carried)
UNION ALL
SELECT DISTINCT format('%%s uses %%s, which uses the row type of %%s',
    CASE d.classid WHEN 'pg_rewrite'::regclass
        THEN (SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r WHERE r.oid = d.objid)
        ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END,
    pg_describe_object('pg_proc'::regclass, made.oid, 0), made.name)
FROM made
JOIN pg_depend d ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = made.oid
UNION ALL
SELECT format('%%s has a security label of %%s', pg_describe_object('pg_proc'::regclass, made.oid, 0), l.provider)
FROM made JOIN pg_seclabel l ON l.classoid = 'pg_proc'::regclass AND l.objoid = made.oid
UNION ALL
SELECT DISTINCT format('%%s uses column %%s of %%s, which goes away',
    CASE d.classid WHEN 'pg_rewrite'::regclass
        THEN (SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r WHERE r.oid = d.objid)
        ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END,
    gone.name, named.name)
FROM gone
JOIN named USING (oid)
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = gone.oid
    AND d.refobjsubid = gone.attnum
WHERE d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass)
   OR (d.classid = 'pg_policy'::regclass
       AND (SELECT p.polrelid FROM pg_policy p WHERE p.oid = d.objid) <> gone.oid)
UNION ALL
SELECT format('trigger %%s of table %%s is FROM %%s', t.tgname, t.tgrelid::regclass, named.name)
FROM named JOIN pg_trigger t ON t.tgconstrrelid = named.oid AND NOT t.tgisinternal
WHERE t.tgrelid NOT IN (SELECT oid FROM tables)
UNION ALL
SELECT format('publication %%s publishes all tables, the new ones beside the old ones too', p.pubname)
FROM pg_publication p WHERE p.puballtables
UNION ALL
SELECT format('subscription %%s writes to %%s', s.subname, named.name)
FROM named JOIN pg_subscription_rel r ON r.srrelid = named.oid JOIN pg_subscription s ON s.oid = r.srsubid
UNION ALL
SELECT DISTINCT format('%%s has a security label of %%s', named.name, l.provider)
FROM named JOIN pg_seclabel l ON l.classoid = 'pg_class'::regclass AND l.objoid = named.oid
UNION ALL
-- Bodies are text: a function that names both the table and the column, or a trigger's that names the column.
SELECT DISTINCT format('%%s %%s mentions column %%s of %%s, which goes away',
    CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, p.oid::regprocedure, changed.name, named.name)
FROM changed
JOIN named USING (oid)
JOIN pg_proc p ON p.prosrc ~* ('\m' || regexp_replace(changed.name, '([^a-zA-Z0-9_])', '\\\1', 'g') || '\M')
JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', %(work)s)
  AND (
      p.prosrc ~* ('\m' || regexp_replace(named.relname, '([^a-zA-Z0-9_])', '\\\1', 'g') || '\M')
      OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND t.tgrelid = changed.oid)
  )
  AND NOT EXISTS (
      SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e'
  )
ORDER BY 1
