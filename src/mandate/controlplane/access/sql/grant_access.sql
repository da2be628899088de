-- What the roles of `mandate db grant` may see of tokens, where both are there: the service verifies, an auditor reads
-- everything but the digests.
DO $$
BEGIN
    IF to_regclass('mandate_access.revocations') IS NOT NULL
        AND (SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname IN ('mandate_runtime', 'mandate_auditor')) = 2 THEN
        GRANT USAGE ON SCHEMA mandate_access TO mandate_runtime, mandate_auditor;
        GRANT SELECT ON mandate_access.tokens, mandate_access.revocations TO mandate_runtime;
        GRANT SELECT (token_id, role, organization_id, domains, domain_ids, description, created_at, created_by,
            expires_at) ON mandate_access.tokens TO mandate_auditor;
        GRANT SELECT ON mandate_access.revocations TO mandate_auditor;
    END IF;
END
$$
