-- A page of policy snapshots, newest first; one when snapshot_id is given.
SELECT p.created_at::text AS position_1, p.snapshot_id::text AS position_2,
    json_build_object(
        'snapshot_id', p.snapshot_id, 'organization_id', p.organization_id, 'domain', p.domain,
        'version', p.version, 'policies', p.policies, 'created_at', p.created_at
    )::text AS body
FROM snapshot p
WHERE (%(snapshot_id)s::uuid IS NULL OR p.snapshot_id = %(snapshot_id)s)
    AND (%(organization_id)s::uuid IS NULL OR p.organization_id = %(organization_id)s)
    AND (%(since)s::timestamptz IS NULL OR p.created_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR p.created_at < %(until)s)
    AND (%(after_1)s::text IS NULL
        OR (p.created_at, p.snapshot_id) < (%(after_1)s::text::timestamptz, %(after_2)s::text::uuid))
ORDER BY p.created_at DESC, p.snapshot_id DESC
LIMIT %(limit)s
