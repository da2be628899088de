-- Triggers of tables and views, without those of the engine itself.
SELECT
    t.tgrelid::bigint AS "table",
    t.tgname AS name,
    pg_get_triggerdef(t.oid) AS definition,
    t.tgenabled::text AS enabled,
    obj_description(t.oid, 'pg_trigger') AS comment
FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgrelid = ANY (%(tables)s::bigint[]::oid[]) AND n.nspname <> %(work)s
ORDER BY t.tgrelid, t.tgname
