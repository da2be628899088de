-- The newest policy snapshot of each domain of organizations.
SELECT DISTINCT ON (p.organization_id, p.domain)
    p.snapshot_id::text AS snapshot_id, p.organization_id::text AS organization_id, p.domain, p.version, p.policies,
    to_json(p.created_at) #>> '{}' AS created_at
FROM mandate.policy_snapshots p
WHERE p.organization_id = ANY (%(organizations)s::text[]::uuid[])
ORDER BY p.organization_id, p.domain, p.version DESC, p.created_at DESC, p.snapshot_id DESC
