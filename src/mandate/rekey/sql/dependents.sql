-- What DROP SCHEMA ... CASCADE would take along although it is in none of the schemas %(schemas)s, in words.
WITH inside (oid) AS (
    SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = ANY (%(schemas)s::text[])
),
needed (classid, objid, name) AS (
    SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.oid::regclass::text
    FROM pg_catalog.pg_class AS c WHERE c.relnamespace IN (SELECT oid FROM inside)
    UNION ALL
    SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.oid::regtype::text
    FROM pg_catalog.pg_type AS t WHERE t.typnamespace IN (SELECT oid FROM inside)
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.oid::regprocedure::text
    FROM pg_catalog.pg_proc AS p WHERE p.pronamespace IN (SELECT oid FROM inside)
),
dependent AS (
    SELECT DISTINCT d.classid, d.objid, needed.name,
        coalesce(r.ev_class, k.conrelid, t.tgrelid, o.polrelid, a.adrelid, b.prrelid) AS relation,
        coalesce(p.pronamespace, y.typnamespace, s.stxnamespace) AS namespace
    FROM needed
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = needed.classid AND d.refobjid = needed.objid
        AND d.deptype IN ('n', 'a')
    LEFT JOIN pg_catalog.pg_rewrite AS r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_catalog.pg_constraint AS k ON d.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_catalog.pg_trigger AS t ON d.classid = 'pg_catalog.pg_trigger'::regclass AND t.oid = d.objid
    LEFT JOIN pg_catalog.pg_policy AS o ON d.classid = 'pg_catalog.pg_policy'::regclass AND o.oid = d.objid
    LEFT JOIN pg_catalog.pg_attrdef AS a ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND a.oid = d.objid
    LEFT JOIN pg_catalog.pg_publication_rel AS b
        ON d.classid = 'pg_catalog.pg_publication_rel'::regclass AND b.oid = d.objid
    LEFT JOIN pg_catalog.pg_proc AS p ON d.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = d.objid
    LEFT JOIN pg_catalog.pg_type AS y ON d.classid = 'pg_catalog.pg_type'::regclass AND y.oid = d.objid
    LEFT JOIN pg_catalog.pg_statistic_ext AS s
        ON d.classid = 'pg_catalog.pg_statistic_ext'::regclass AND s.oid = d.objid
),
placed AS (
    SELECT d.classid, d.objid, d.name, d.relation, coalesce(d.namespace, c.relnamespace) AS namespace
    FROM dependent AS d
    LEFT JOIN pg_catalog.pg_class AS c
        ON c.oid = CASE WHEN d.classid = 'pg_catalog.pg_class'::regclass THEN d.objid ELSE d.relation END
)
SELECT pg_catalog.format('%%s needs %%s',
    CASE WHEN v.relkind IN ('v', 'm') THEN pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, v.oid, 0)
        ELSE pg_catalog.pg_describe_object(placed.classid, placed.objid, 0) END,
    pg_catalog.min(placed.name)) AS problem
FROM placed
LEFT JOIN pg_catalog.pg_class AS v ON v.oid = placed.relation
WHERE placed.namespace IS NOT NULL AND placed.namespace NOT IN (SELECT oid FROM inside)
GROUP BY placed.classid, placed.objid, v.oid, v.relkind
ORDER BY 1
