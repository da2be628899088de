\echo '=== Rows that point across organizations or domains ==='

-- check: verdicts_across expect=rows
SELECT v.verdict_id, v.organization_id, v.domain, d.organization_id AS decision_organization_id, d.domain AS decision_domain
FROM mandate.verdict_events v JOIN mandate.decision_events d USING (decision_id)
WHERE (v.organization_id, v.domain) IS DISTINCT FROM (d.organization_id, d.domain)
LIMIT 20;

\echo '=== Migrations so far ==='

-- check: migration_log_rows expect=rows
SELECT migration_version, migration_name, executed_at FROM mandate.migration_log ORDER BY id;
