-- One snapshot. Whose: as in replay_spec.sql.
SELECT organization_id::text AS organization_id, domain, policies
FROM snapshot
WHERE snapshot_id = %(snapshot_id)s::uuid
ORDER BY organization_id <> %(organization_id)s::uuid
LIMIT 1
