-- The specs that policies may refer to: the one in force of each id, or its newest version.
SELECT DISTINCT ON (organization_id, domain, spec_id) spec_id, version, organization_id::text AS organization_id, domain,
    intent, stage::text AS stage, allowed_verdicts::text[] AS allowed_verdicts, signals, enforcement
FROM mandate.mandate_specs
ORDER BY organization_id, domain, spec_id, status <> 'active', version DESC
