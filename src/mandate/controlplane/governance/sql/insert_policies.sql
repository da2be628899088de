INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, domain)
VALUES (%(snapshot_id)s::text::uuid, %(version)s, %(policies)s, %(organization_id)s::text::uuid, %(domain)s)
RETURNING to_json(created_at) #>> '{}' AS created_at
