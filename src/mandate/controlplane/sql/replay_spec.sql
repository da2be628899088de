-- One version of a spec. Ids belong to an organization in version 9; before, another's may be named by mistake.
SELECT spec_id, version, organization_id::text AS organization_id, domain, intent, stage::text AS stage,
    allowed_verdicts::text[] AS allowed_verdicts, signals, enforcement
FROM mandate.mandate_specs
WHERE spec_id = %(spec_id)s AND version = %(version)s
ORDER BY organization_id <> %(organization_id)s::uuid
LIMIT 1
