-- Tokens and their revocation. A schema of its own: `mandate` is what the migrations make of it, byte for byte.
CREATE SCHEMA IF NOT EXISTS mandate_access;

CREATE TABLE IF NOT EXISTS mandate_access.tokens (
    token_id text PRIMARY KEY CHECK (token_id ~ '^[0-9a-f]{12}$'),
    digest bytea NOT NULL CHECK (length(digest) = 32),
    role text NOT NULL CHECK (role IN ('agent', 'auditor', 'operator')),
    organization_id uuid NOT NULL,
    -- Names of domains and, at the same places, the UUIDs that these have or once had; NULL: every domain.
    domains text[],
    domain_ids uuid[],
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    expires_at timestamptz,
    CHECK (cardinality(domains) > 0),
    CHECK (cardinality(domains) IS NOT DISTINCT FROM cardinality(domain_ids))
);

CREATE TABLE IF NOT EXISTS mandate_access.revocations (
    token_id text PRIMARY KEY REFERENCES mandate_access.tokens,
    reason text NOT NULL DEFAULT '',
    revoked_at timestamptz NOT NULL,
    revoked_by text NOT NULL
);

CREATE OR REPLACE FUNCTION mandate_access.prevent_mutation() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'tokens are append-only: % is not allowed', TG_OP
        USING ERRCODE = 'restrict_violation', HINT = 'mandate token revoke ends a token.';
END
$$;

CREATE OR REPLACE TRIGGER prevent_tokens_mutation BEFORE UPDATE OR DELETE OR TRUNCATE ON mandate_access.tokens
    FOR EACH STATEMENT EXECUTE FUNCTION mandate_access.prevent_mutation();
CREATE OR REPLACE TRIGGER prevent_revocations_mutation BEFORE UPDATE OR DELETE OR TRUNCATE ON mandate_access.revocations
    FOR EACH STATEMENT EXECUTE FUNCTION mandate_access.prevent_mutation();
