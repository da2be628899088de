-- What somebody else made that needs something in one of the schemas %(schemas)s, and would be dropped with it.
WITH inside (classid, oid) AS (
    SELECT 'pg_class'::regclass, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (%(schemas)s::text[])
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = ANY (%(schemas)s::text[])
    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = ANY (%(schemas)s::text[])
),
needing (classid, oid, relation) AS (
    -- The relation that a rule, constraint, default, trigger or policy belongs to; of anything else the thing itself.
    SELECT DISTINCT d.classid, d.objid,
        coalesce(r.ev_class, nullif(c.conrelid, 0), a.adrelid, t.tgrelid, p.polrelid)
    FROM pg_depend d
    JOIN inside i ON i.classid = d.refclassid AND i.oid = d.refobjid
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
    LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
    LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
    LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
    WHERE d.deptype = 'n'
)
SELECT DISTINCT CASE
    WHEN v.relkind IN ('v', 'm') THEN pg_describe_object('pg_class'::regclass, n.relation, 0)
    ELSE pg_describe_object(n.classid, n.oid, 0)
END AS name
FROM needing n
LEFT JOIN pg_class v ON v.oid = n.relation
WHERE NOT EXISTS (
    SELECT FROM inside i
    WHERE (i.classid = n.classid AND i.oid = n.oid) OR (i.classid = 'pg_class'::regclass AND i.oid = n.relation)
)
ORDER BY 1
