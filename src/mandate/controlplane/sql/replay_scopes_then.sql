-- The scopes of a domain that were there when a decision got its verdict.
SELECT p.scope_id
FROM place p
WHERE p.organization_id = %(organization_id)s::uuid AND p.domain = %(domain)s AND p.created_at <= (
    SELECT max(v.timestamp) FROM verdict v
    WHERE v.decision_id = %(decision_id)s::uuid AND v.organization_id = %(organization_id)s::uuid
)
ORDER BY p.scope_id
