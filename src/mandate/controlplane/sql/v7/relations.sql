-- How a version 7 database spells the relations that every statement reads. The domain is its UUID's name.
WITH domain AS NOT MATERIALIZED (
    SELECT organization_id, name AS domain, description, metadata, created_at
    FROM mandate.domains
    WHERE (%(domain_keys)s::text[] IS NULL OR domain_id = ANY (%(domain_keys)s::text[]::uuid[]))
        AND (%(principal_organization)s::uuid IS NULL OR organization_id = %(principal_organization)s::uuid)
        AND (%(principal_domains)s::text[] IS NULL OR name = ANY (%(principal_domains)s::text[]))
), decision AS NOT MATERIALIZED (
    SELECT d.decision_id, d.organization_id, n.name AS domain, d.intent, d.stage, d.actor, d.target,
        d.context, d.scope, d.timestamp, d.created_at AS received_at, d.spec_id, d.spec_version
    FROM mandate.decision_events d
    LEFT JOIN mandate.domains n ON n.domain_id = d.domain_id
    WHERE (%(domain_keys)s::text[] IS NULL OR d.domain_id = ANY (%(domain_keys)s::text[]::uuid[]))
        AND (%(principal_organization)s::uuid IS NULL OR (d.organization_id = %(principal_organization)s::uuid
            AND COALESCE(n.organization_id = %(principal_organization)s::uuid, true)))
        AND (%(principal_domains)s::text[] IS NULL OR n.name = ANY (%(principal_domains)s::text[]))
), verdict AS NOT MATERIALIZED (
    SELECT v.verdict_id, v.organization_id, n.name AS domain, v.decision_id, v.snapshot_id, v.verdict,
        v.matched_policy_ids, v.spec_id, v.spec_version, v.scope_id::text AS scope_id, v.owning_team, v.timestamp
    FROM mandate.verdict_events v
    LEFT JOIN mandate.domains n ON n.domain_id = v.domain_id
    WHERE (%(domain_keys)s::text[] IS NULL OR v.domain_id = ANY (%(domain_keys)s::text[]::uuid[]))
        AND (%(scope_keys)s::text[] IS NULL OR v.scope_id = ANY (%(scope_keys)s::text[]::uuid[]))
        AND (%(principal_organization)s::uuid IS NULL OR (v.organization_id = %(principal_organization)s::uuid
            AND COALESCE(n.organization_id = %(principal_organization)s::uuid, true)))
        AND (%(principal_domains)s::text[] IS NULL OR n.name = ANY (%(principal_domains)s::text[]))
), attached AS NOT MATERIALIZED (
    -- Verdicts to join to decisions. Whose and what is asked for is hidden in subqueries: seen by the planner, an organization that
    -- statistics do not know yet has one row, for which any index will do, and each decision would read all verdicts that it has.
    SELECT v.verdict_id, v.decision_id, v.verdict, v.timestamp
    FROM mandate.verdict_events v
    LEFT JOIN mandate.domains n ON n.domain_id = v.domain_id
    WHERE (%(domain_keys)s::text[] IS NULL OR v.domain_id = ANY ((SELECT %(domain_keys)s::text[])::uuid[]))
        AND (%(scope_keys)s::text[] IS NULL OR v.scope_id = ANY ((SELECT %(scope_keys)s::text[])::uuid[]))
        AND (%(principal_organization)s::uuid IS NULL OR (v.organization_id = (SELECT %(principal_organization)s::uuid)
            AND COALESCE(n.organization_id = %(principal_organization)s::uuid, true)))
        AND (%(principal_domains)s::text[] IS NULL OR n.name = ANY (%(principal_domains)s::text[]))
), entry AS NOT MATERIALIZED (
    SELECT t.entry_id, t.organization_id, n.name AS domain, t.decision_id, t.intent, t.stage, t.actor, t.target,
        t.summary, t.details, t.severity, t.event_source, t.authority_level, t.spec_id, t.spec_version, t.timestamp,
        t.created_at
    FROM mandate.audit_timeline_entries t
    LEFT JOIN mandate.domains n ON n.domain_id = t.domain_id
    WHERE (%(principal_organization)s::uuid IS NULL OR (t.organization_id = %(principal_organization)s::uuid
            AND COALESCE(n.organization_id = %(principal_organization)s::uuid, true)))
        AND (%(principal_domains)s::text[] IS NULL OR n.name = ANY (%(principal_domains)s::text[]))
), scope AS NOT MATERIALIZED (
    SELECT s.scope_id::text AS scope_id, s.organization_id, n.name AS domain, s.service, s.agent,
        s.scope_system AS system, s.environment, s.tenant, s.owning_team, s.owner_contact, s.description,
        s.created_at
    FROM mandate.scopes s
    LEFT JOIN mandate.domains n ON n.domain_id = s.domain_id
    WHERE (%(domain_keys)s::text[] IS NULL OR s.domain_id = ANY (%(domain_keys)s::text[]::uuid[]))
        AND (%(scope_keys)s::text[] IS NULL OR s.scope_id = ANY (%(scope_keys)s::text[]::uuid[]))
        AND (%(principal_organization)s::uuid IS NULL OR (s.organization_id = %(principal_organization)s::uuid
            AND COALESCE(n.organization_id = %(principal_organization)s::uuid, true)))
        AND (%(principal_domains)s::text[] IS NULL OR n.name = ANY (%(principal_domains)s::text[]))
), snapshot AS NOT MATERIALIZED (
    SELECT p.snapshot_id, p.organization_id, n.name AS domain, p.version, p.policies, p.created_at
    FROM mandate.policy_snapshots p
    LEFT JOIN mandate.domains n ON n.domain_id = p.domain_id
    WHERE (%(domain_keys)s::text[] IS NULL OR p.domain_id = ANY (%(domain_keys)s::text[]::uuid[]))
        AND (%(principal_organization)s::uuid IS NULL OR (p.organization_id = %(principal_organization)s::uuid
            AND COALESCE(n.organization_id = %(principal_organization)s::uuid, true)))
        AND (%(principal_domains)s::text[] IS NULL OR n.name = ANY (%(principal_domains)s::text[]))
), spec AS NOT MATERIALIZED (
    SELECT s.*
    FROM mandate.mandate_specs s
    LEFT JOIN mandate.domains n ON n.organization_id = s.organization_id AND n.name = s.domain
    WHERE (%(domain_keys)s::text[] IS NULL OR n.domain_id = ANY (%(domain_keys)s::text[]::uuid[]))
        AND (%(principal_organization)s::uuid IS NULL OR (s.organization_id = %(principal_organization)s::uuid
            AND COALESCE(n.organization_id = %(principal_organization)s::uuid, true)))
        AND (%(principal_domains)s::text[] IS NULL OR n.name = ANY (%(principal_domains)s::text[]))
)
