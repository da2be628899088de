-- What a token may, and for how many seconds more by the database's clock.
SELECT t.digest, t.role, t.organization_id::text AS organization_id, t.domains, t.domain_ids::text[] AS domain_ids,
    r.token_id IS NOT NULL AS revoked,
    EXTRACT(EPOCH FROM t.expires_at - statement_timestamp())::float8 AS seconds_left
FROM mandate_access.tokens t
LEFT JOIN mandate_access.revocations r USING (token_id)
WHERE t.token_id = %(token_id)s
