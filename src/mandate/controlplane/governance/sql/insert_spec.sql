INSERT INTO mandate.mandate_specs (spec_id, version, organization_id, domain, intent, stage, allowed_verdicts, signals,
    enforcement, status)
VALUES (%(spec_id)s, %(version)s, %(organization_id)s::text::uuid, %(domain)s, %(intent)s,
    %(stage)s::text::mandate.stage, %(allowed_verdicts)s::text[]::mandate.verdict[], %(signals)s, %(enforcement)s,
    %(status)s)
RETURNING to_json(created_at) #>> '{}' AS created_at
