-- Every token that was ever made, newest first; never what is kept of its secret.
SELECT t.token_id, t.role, t.organization_id::text AS organization_id, o.name AS organization, t.domains, t.description, t.created_at, t.created_by,
    t.expires_at, r.revoked_at, r.revoked_by, r.reason,
    CASE WHEN r.token_id IS NOT NULL THEN 'revoked' WHEN t.expires_at <= statement_timestamp() THEN 'expired'
        ELSE 'valid' END AS status
FROM mandate_access.tokens t
LEFT JOIN mandate_access.revocations r USING (token_id)
LEFT JOIN mandate.organizations o ON o.organization_id = t.organization_id
ORDER BY t.created_at DESC, t.token_id
