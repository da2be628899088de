-- Every version of the specs of organizations, and of those with given ids wherever they are.
SELECT s.spec_id, s.version, s.organization_id::text AS organization_id, s.domain, s.intent, s.stage::text AS stage,
    s.status, s.allowed_verdicts::text[] AS allowed_verdicts, s.signals, s.enforcement, s.replaced_by,
    to_json(s.created_at) #>> '{}' AS created_at
FROM mandate.mandate_specs s
WHERE s.organization_id = ANY (%(organizations)s::text[]::uuid[]) OR s.spec_id = ANY (%(specs)s::text[])
ORDER BY s.organization_id, s.domain, s.spec_id, s.version
