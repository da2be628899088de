-- How a version 8 database spells the relations that every statement reads.
-- `version_8` is joined by its key and never read: the planner drops the join, and on a database that went back to
-- version 7 the statement is refused instead of reading columns that only look alike.
WITH domain AS NOT MATERIALIZED (
    SELECT organization_id, domain, description, metadata, created_at
    FROM mandate.domains
    WHERE (%(domain_keys)s::text[] IS NULL
        OR (domain = ANY (%(domain_keys)s::text[]) AND organization_id = ANY (%(domain_organizations)s::text[]::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR domain = ANY (%(principal_domains)s::text[]))
), decision AS NOT MATERIALIZED (
    SELECT d.decision_id, d.organization_id, d.domain, d.intent, d.stage, d.actor, d.target,
        d.context, d.scope, d.timestamp, d.created_at AS received_at, d.spec_id, d.spec_version
    FROM mandate.decision_events d
    LEFT JOIN mandate.domains version_8
        ON version_8.organization_id = d.organization_id AND version_8.domain = d.domain
    WHERE (%(domain_keys)s::text[] IS NULL
        OR (d.domain = ANY (%(domain_keys)s::text[]) AND d.organization_id = ANY (%(domain_organizations)s::text[]::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR d.organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR d.domain = ANY (%(principal_domains)s::text[]))
), verdict AS NOT MATERIALIZED (
    SELECT v.verdict_id, v.organization_id, v.domain, v.decision_id, v.snapshot_id, v.verdict,
        v.matched_policy_ids, v.spec_id, v.spec_version, v.scope_id, v.owning_team, v.timestamp
    FROM mandate.verdict_events v
    LEFT JOIN mandate.domains version_8
        ON version_8.organization_id = v.organization_id AND version_8.domain = v.domain
    WHERE (%(domain_keys)s::text[] IS NULL
            OR (v.domain = ANY (%(domain_keys)s::text[])
                AND v.organization_id = ANY (%(domain_organizations)s::text[]::uuid[])))
        AND (%(scope_keys)s::text[] IS NULL OR v.scope_id = ANY (%(scope_keys)s::text[]))
        AND (%(principal_organization)s::uuid IS NULL OR v.organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR v.domain = ANY (%(principal_domains)s::text[]))
), attached AS NOT MATERIALIZED (
    -- Verdicts to join to decisions. Whose and what is asked for is hidden in subqueries: seen by the planner, an organization that
    -- statistics do not know yet has one row, for which any index will do, and each decision would read all verdicts that it has.
    SELECT v.verdict_id, v.decision_id, v.verdict, v.timestamp
    FROM mandate.verdict_events v
    LEFT JOIN mandate.domains version_8
        ON version_8.organization_id = v.organization_id AND version_8.domain = v.domain
    WHERE (%(domain_keys)s::text[] IS NULL
            OR (v.domain = ANY ((SELECT %(domain_keys)s::text[])::text[])
                AND v.organization_id = ANY ((SELECT %(domain_organizations)s::text[])::uuid[])))
        AND (%(scope_keys)s::text[] IS NULL OR v.scope_id = ANY ((SELECT %(scope_keys)s::text[])::text[]))
        AND (%(principal_organization)s::uuid IS NULL OR v.organization_id = (SELECT %(principal_organization)s::uuid))
        AND (%(principal_domains)s::text[] IS NULL OR v.domain = ANY ((SELECT %(principal_domains)s::text[])::text[]))
), entry AS NOT MATERIALIZED (
    SELECT t.entry_id, t.organization_id, t.domain, t.decision_id, t.intent, t.stage, t.actor, t.target,
        t.summary, t.details, t.severity, t.event_source, t.authority_level, t.spec_id, t.spec_version, t.timestamp,
        t.created_at
    FROM mandate.audit_timeline_entries t
    LEFT JOIN mandate.domains version_8
        ON version_8.organization_id = t.organization_id AND version_8.domain = t.domain
    WHERE (%(principal_organization)s::uuid IS NULL OR t.organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR t.domain = ANY (%(principal_domains)s::text[]))
), scope AS NOT MATERIALIZED (
    SELECT s.scope_id, s.organization_id, s.domain, s.service, s.agent, s.scope_system AS system, s.environment,
        s.tenant, s.owning_team, s.owner_contact, s.description, s.created_at
    FROM mandate.scopes s
    LEFT JOIN mandate.domains version_8
        ON version_8.organization_id = s.organization_id AND version_8.domain = s.domain
    WHERE (%(domain_keys)s::text[] IS NULL
            OR (s.domain = ANY (%(domain_keys)s::text[])
                AND s.organization_id = ANY (%(domain_organizations)s::text[]::uuid[])))
        AND (%(scope_keys)s::text[] IS NULL OR s.scope_id = ANY (%(scope_keys)s::text[]))
        AND (%(principal_organization)s::uuid IS NULL OR s.organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR s.domain = ANY (%(principal_domains)s::text[]))
), snapshot AS NOT MATERIALIZED (
    SELECT p.snapshot_id, p.organization_id, p.domain, p.version, p.policies, p.created_at
    FROM mandate.policy_snapshots p
    LEFT JOIN mandate.domains version_8
        ON version_8.organization_id = p.organization_id AND version_8.domain = p.domain
    WHERE (%(domain_keys)s::text[] IS NULL
        OR (p.domain = ANY (%(domain_keys)s::text[])
            AND p.organization_id = ANY (%(domain_organizations)s::text[]::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR p.organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR p.domain = ANY (%(principal_domains)s::text[]))
), spec AS NOT MATERIALIZED (
    SELECT s.*
    FROM mandate.mandate_specs s
    LEFT JOIN mandate.domains version_8
        ON version_8.organization_id = s.organization_id AND version_8.domain = s.domain
    WHERE (%(domain_keys)s::text[] IS NULL
        OR (s.domain = ANY (%(domain_keys)s::text[])
            AND s.organization_id = ANY (%(domain_organizations)s::text[]::uuid[])))
        AND (%(principal_organization)s::uuid IS NULL OR s.organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR s.domain = ANY (%(principal_domains)s::text[]))
)
