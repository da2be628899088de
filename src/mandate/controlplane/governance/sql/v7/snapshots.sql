-- The newest policy snapshot of each domain of organizations.
SELECT DISTINCT ON (n.organization_id, n.name)
    p.snapshot_id::text AS snapshot_id, n.organization_id::text AS organization_id, n.name AS domain, p.version,
    p.policies,
    to_json(p.created_at) #>> '{}' AS created_at
FROM mandate.policy_snapshots p
JOIN mandate.domains n ON n.domain_id = p.domain_id
WHERE n.organization_id = ANY (%(organizations)s::text[]::uuid[])
ORDER BY n.organization_id, n.name, p.version DESC, p.created_at DESC, p.snapshot_id DESC
