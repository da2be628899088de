-- 004: a first policy snapshot for the example organization's finance domain (needs 003).

\set ON_ERROR_STOP on

BEGIN;

INSERT INTO mandate.policy_snapshots (snapshot_id, version, organization_id, domain_id, policies) VALUES
    ('a0000001-0000-4000-8000-000000000001', 1, '00000000-0000-0000-0000-000000000001',
     'd0000001-0000-4000-8000-000000000001',
     '[{"id": "finance-observe-refunds", "name": "Watch every refund",
        "scope_id": "5c000001-0000-4000-8000-000000000001", "conditions": [], "verdict": "OBSERVE"}]');

COMMIT;
