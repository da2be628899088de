-- The end of a token. Revoked before: that stands, and no row comes back.
INSERT INTO mandate_access.revocations (token_id, reason, revoked_at, revoked_by)
SELECT token_id, %(reason)s, statement_timestamp(), session_user
FROM mandate_access.tokens
WHERE token_id = %(token_id)s
ON CONFLICT DO NOTHING
RETURNING token_id, revoked_at
