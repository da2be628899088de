-- Where decisions are recorded that do not say whose they are: a domain `unattributed` with an empty snapshot, in the
-- organization that they name or in one of its own. No row when the named organization does not exist.
WITH organization AS (
    INSERT INTO mandate.organizations (organization_id, name, description)
    SELECT %(nobody)s::uuid, %(name)s, 'Decisions that name no organization'
    WHERE %(organization_id)s::uuid = %(nobody)s::uuid
    ON CONFLICT DO NOTHING
    RETURNING organization_id
), owner AS (
    SELECT organization_id FROM organization
    UNION
    SELECT organization_id FROM mandate.organizations WHERE organization_id = %(organization_id)s::uuid
), domain AS (
    INSERT INTO mandate.domains (organization_id, domain, description)
    SELECT organization_id, %(domain)s, 'Decisions without complete attribution' FROM owner
    ON CONFLICT DO NOTHING
)
INSERT INTO mandate.policy_snapshots (snapshot_id, version, policies, organization_id, domain)
SELECT %(snapshot_id)s::uuid, 1, '[]', organization_id, %(domain)s FROM owner
ON CONFLICT DO NOTHING
RETURNING snapshot_id
