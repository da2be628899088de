-- Whether a token was ever made. Revoked and expired ones count: what was closed does not open by itself.
SELECT EXISTS (SELECT FROM mandate_access.tokens) AS found
