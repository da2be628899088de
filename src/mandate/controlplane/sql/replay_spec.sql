-- One version of a spec.
SELECT spec_id, version, organization_id::text AS organization_id, domain, intent, stage::text AS stage,
    allowed_verdicts::text[] AS allowed_verdicts, signals, enforcement
FROM mandate.mandate_specs
WHERE spec_id = %(spec_id)s AND version = %(version)s
