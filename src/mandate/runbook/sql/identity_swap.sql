-- Inside the swap of 008, once the new tables are in place: what version 8 has beside them. Clients wait meanwhile:
-- what can be done before is in identity_swap_begin.sql, what can be done after in identity_after_swap.sql.
INSERT INTO pg_temp.m008_domains (domain_id, organization_id, old_name, new_name, hex)
SELECT o1, n1, d1, n2, pg_temp.m008_hex(o1::text) FROM mandate_rekey_008.map_1;
INSERT INTO pg_temp.m008_scopes (scope_id, organization_id, domain, new_scope_id, hex)
SELECT m.o1, s.organization_id, s.domain, m.n1, pg_temp.m008_hex(m.o1::text)
FROM mandate_rekey_008.map_2 m JOIN mandate.scopes s ON s.scope_id = m.n1;
SELECT pg_temp.m008_mandate_specs();
SELECT pg_temp.m008_prefix_rule();
SELECT pg_temp.m008_identity_map();
SELECT pg_temp.m008_append_only();
SELECT pg_temp.m008_log();
INSERT INTO mandate_conductor.migration_008_made (kind, name, on_table)
SELECT 'trigger', t.tgname, c.relname
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND c.relnamespace = 'mandate'::regnamespace
  AND c.relname IN ('organizations', 'mandate_specs') AND t.oid NOT IN (SELECT oid FROM m008_before);
