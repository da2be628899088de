-- The organizations that have a decision, a spec or a snapshot of that id: in version 9 it belongs to each.
SELECT organization_id::text AS organization_id FROM decision WHERE decision_id = %(decision_id)s::uuid
UNION
SELECT organization_id::text FROM spec WHERE spec_id = %(spec_id)s::text
UNION
SELECT organization_id::text FROM snapshot WHERE snapshot_id = %(snapshot_id)s::uuid
LIMIT 2
