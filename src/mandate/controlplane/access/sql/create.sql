-- A token; whoever is connected made it.
INSERT INTO mandate_access.tokens
    (token_id, digest, role, organization_id, domains, domain_ids, description, created_at, created_by, expires_at)
SELECT %(token_id)s, %(digest)s, %(role)s, %(organization_id)s::uuid, %(domains)s::text[], %(domain_ids)s::uuid[],
    %(description)s, now, session_user, now + %(lifetime)s::interval
FROM (SELECT date_trunc('milliseconds', statement_timestamp()) AS now) clock
RETURNING created_at, expires_at
