\echo '=== Guide: Pre-checks fail: "NULL count" errors ==='

-- check: nullable_key_columns expect=rows
SELECT table_name, count(*) AS null_count
FROM information_schema.columns
WHERE table_schema = 'mandate'
  AND table_name IN ('domains', 'scopes', 'policy_snapshots', 'decision_events')
  AND column_name IN ('domain', 'domain_id')
  AND is_nullable = 'YES'
GROUP BY table_name
ORDER BY table_name;

-- check: domains_without_name expect=zero
SELECT 'domains without a name' AS check_name, count(*) AS result FROM mandate.domains WHERE name IS NULL;

-- check: scopes_of_no_domain expect=zero
SELECT 'scopes whose domain_id is not in domains' AS check_name, count(*) AS result
FROM mandate.scopes s
WHERE s.domain_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM mandate.domains d WHERE d.domain_id = s.domain_id);

\echo '=== Guide: Migration fails with constraint error ==='

-- check: names_not_slugs expect=rows
SELECT name FROM mandate.domains WHERE name !~ '^[a-z0-9_-]+$' ORDER BY name LIMIT 20;

-- check: names_twice expect=rows
SELECT organization_id, name, count(*) FROM mandate.domains
GROUP BY organization_id, name HAVING count(*) > 1 ORDER BY 1, 2 LIMIT 20;
