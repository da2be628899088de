-- How a version 9 database spells the relations that every statement reads.
-- `version_9` is joined by its key and never read: the planner drops the join, and on a database that went back to
-- version 8 the statement is refused. By way of organizations a row is found by its id alone: keys begin with theirs.
-- An organization that is given is hidden in a subquery. Seen by the planner, one that statistics do not know yet has one row,
-- for which any index will do, and each row of a page would read all that it has.
WITH domain AS NOT MATERIALIZED (
    SELECT organization_id, domain, description, metadata, created_at
    FROM mandate.domains
    WHERE (%(domain_keys)s::text[] IS NULL
        OR (domain = ANY (%(domain_keys)s::text[]) AND organization_id = ANY ((SELECT %(domain_organizations)s::text[])::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR organization_id = (SELECT %(principal_organization)s::uuid))
        AND (%(principal_domains)s::text[] IS NULL OR domain = ANY (%(principal_domains)s::text[]))
), decision AS NOT MATERIALIZED (
    SELECT d.decision_id, d.organization_id, d.domain, d.intent, d.stage, d.actor, d.target,
        d.context, d.scope, d.timestamp, d.received_at, d.spec_id, d.spec_version
    FROM mandate.decision_events d
    JOIN mandate.organizations o ON o.organization_id = d.organization_id
    LEFT JOIN mandate.spec_events version_9
        ON version_9.organization_id = d.organization_id AND version_9.domain = d.domain
        AND version_9.intent = '' AND version_9.stage = 'proposed' AND version_9.position = 0
    WHERE (%(domain_keys)s::text[] IS NULL
        OR (d.domain = ANY (%(domain_keys)s::text[]) AND d.organization_id = ANY ((SELECT %(domain_organizations)s::text[])::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR d.organization_id = (SELECT %(principal_organization)s::uuid))
        AND (%(principal_domains)s::text[] IS NULL OR d.domain = ANY (%(principal_domains)s::text[]))
), verdict AS NOT MATERIALIZED (
    SELECT v.verdict_id, v.organization_id, v.domain, v.decision_id, v.snapshot_id, v.verdict,
        v.matched_policy_ids, v.spec_id, v.spec_version, v.scope_id, v.owning_team, v.timestamp
    FROM mandate.verdict_events v
    JOIN mandate.organizations o ON o.organization_id = v.organization_id
    LEFT JOIN mandate.spec_events version_9
        ON version_9.organization_id = v.organization_id AND version_9.domain = v.domain
        AND version_9.intent = '' AND version_9.stage = 'proposed' AND version_9.position = 0
    WHERE (%(domain_keys)s::text[] IS NULL
            OR (v.domain = ANY (%(domain_keys)s::text[])
                AND v.organization_id = ANY ((SELECT %(domain_organizations)s::text[])::uuid[])))
        AND (%(scope_keys)s::text[] IS NULL
            OR (v.scope_id = ANY (%(scope_keys)s::text[])
                AND v.organization_id = ANY ((SELECT %(scope_organizations)s::text[])::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR v.organization_id = (SELECT %(principal_organization)s::uuid))
        AND (%(principal_domains)s::text[] IS NULL OR v.domain = ANY (%(principal_domains)s::text[]))
), entry AS NOT MATERIALIZED (
    SELECT t.entry_id, t.organization_id, t.domain, t.decision_id, t.intent, t.stage, t.actor, t.target,
        t.summary, t.details, t.severity, t.event_source, t.authority_level, t.spec_id, t.spec_version, t.timestamp,
        t.created_at
    FROM mandate.audit_timeline_entries t
    JOIN mandate.organizations o ON o.organization_id = t.organization_id
    LEFT JOIN mandate.spec_events version_9
        ON version_9.organization_id = t.organization_id AND version_9.domain = t.domain
        AND version_9.intent = '' AND version_9.stage = 'proposed' AND version_9.position = 0
    WHERE (%(principal_organization)s::uuid IS NULL OR t.organization_id = (SELECT %(principal_organization)s::uuid))
        AND (%(principal_domains)s::text[] IS NULL OR t.domain = ANY (%(principal_domains)s::text[]))
), scope AS NOT MATERIALIZED (
    SELECT s.scope_id, s.organization_id, s.domain, s.service, s.agent, s.scope_system AS system, s.environment,
        s.tenant, s.owning_team, s.owner_contact, s.description, s.created_at
    FROM mandate.scopes s
    LEFT JOIN mandate.spec_events version_9
        ON version_9.organization_id = s.organization_id AND version_9.domain = s.domain
        AND version_9.intent = '' AND version_9.stage = 'proposed' AND version_9.position = 0
    WHERE (%(domain_keys)s::text[] IS NULL
            OR (s.domain = ANY (%(domain_keys)s::text[])
                AND s.organization_id = ANY ((SELECT %(domain_organizations)s::text[])::uuid[])))
        AND (%(scope_keys)s::text[] IS NULL
            OR (s.scope_id = ANY (%(scope_keys)s::text[])
                AND s.organization_id = ANY ((SELECT %(scope_organizations)s::text[])::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR s.organization_id = (SELECT %(principal_organization)s::uuid))
        AND (%(principal_domains)s::text[] IS NULL OR s.domain = ANY (%(principal_domains)s::text[]))
), snapshot AS NOT MATERIALIZED (
    SELECT p.snapshot_id, p.organization_id, p.domain, p.version, p.policies, p.created_at
    FROM mandate.policy_snapshots p
    LEFT JOIN mandate.spec_events version_9
        ON version_9.organization_id = p.organization_id AND version_9.domain = p.domain
        AND version_9.intent = '' AND version_9.stage = 'proposed' AND version_9.position = 0
    WHERE (%(domain_keys)s::text[] IS NULL
        OR (p.domain = ANY (%(domain_keys)s::text[])
            AND p.organization_id = ANY ((SELECT %(domain_organizations)s::text[])::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR p.organization_id = (SELECT %(principal_organization)s::uuid))
        AND (%(principal_domains)s::text[] IS NULL OR p.domain = ANY (%(principal_domains)s::text[]))
), spec AS NOT MATERIALIZED (
    SELECT s.spec_id, s.version, s.organization_id, s.domain, s.intent, s.stage, s.allowed_verdicts, s.signals,
        s.enforcement, s.replaced_by, s.created_at,
        CASE WHEN last.event = 'activated' AND last.spec_id = s.spec_id AND last.version = s.version THEN 'active'
            WHEN s.status = 'active' OR EXISTS (
                SELECT FROM mandate.spec_events e
                WHERE e.organization_id = s.organization_id AND e.domain = s.domain AND e.intent = s.intent
                    AND e.stage = s.stage AND e.spec_id = s.spec_id AND e.version = s.version
            ) THEN 'deprecated'
            ELSE s.status END AS status
    FROM mandate.mandate_specs s
    LEFT JOIN LATERAL (
        SELECT e.event, e.spec_id, e.version
        FROM mandate.spec_events e
        WHERE e.organization_id = s.organization_id AND e.domain = s.domain AND e.intent = s.intent
            AND e.stage = s.stage
        ORDER BY e.position DESC
        LIMIT 1
    ) last ON true
    WHERE (%(domain_keys)s::text[] IS NULL
        OR (s.domain = ANY (%(domain_keys)s::text[])
            AND s.organization_id = ANY ((SELECT %(domain_organizations)s::text[])::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR s.organization_id = (SELECT %(principal_organization)s::uuid))
        AND (%(principal_domains)s::text[] IS NULL OR s.domain = ANY (%(principal_domains)s::text[]))
)
