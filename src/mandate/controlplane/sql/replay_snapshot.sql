-- One snapshot.
SELECT organization_id::text AS organization_id, domain, policies
FROM snapshot
WHERE snapshot_id = %(snapshot_id)s::uuid
