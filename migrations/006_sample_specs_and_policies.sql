-- 006: sample specs, and the snapshots whose policies refer to them (needs 003).

\set ON_ERROR_STOP on

BEGIN;

INSERT INTO mandate.mandate_specs
    (spec_id, version, organization_id, domain, intent, stage, allowed_verdicts, signals, enforcement, status)
VALUES
    ('finance.refund', 1, '00000000-0000-0000-0000-000000000001', 'finance', 'issue_refund', 'pre_commit',
     '{ALLOW,PAUSE,BLOCK,OBSERVE}',
     '[{"name": "amount", "type": "number", "required": true, "source": "context"},
       {"name": "customer_verified", "type": "boolean", "required": true, "source": "context"},
       {"name": "environment", "type": "string", "required": false, "source": "scope"}]',
     '{"default_verdict": "ALLOW"}', 'active'),
    ('logistics.reroute', 1, '00000000-0000-0000-0000-000000000001', 'logistics', 'reroute_shipment', 'pre_commit',
     '{ALLOW,PAUSE,BLOCK}',
     '[{"name": "delay_hours", "type": "number", "required": true, "source": "context"},
       {"name": "carrier", "type": "enum", "values": ["road", "rail", "air"], "required": false,
        "source": "context"}]',
     '{"default_verdict": "ALLOW"}', 'active'),
    ('infrastructure.deploy', 1, '00000000-0000-0000-0000-000000000001', 'infrastructure', 'deploy_release', 'proposed',
     '{ALLOW,BLOCK,OBSERVE}',
     '[{"name": "tests_passed", "type": "boolean", "required": true, "source": "context"}]',
     '{}', 'active');

INSERT INTO mandate.policy_snapshots (snapshot_id, version, organization_id, domain_id, policies) VALUES
    ('a0000002-0000-4000-8000-000000000002', 2, '00000000-0000-0000-0000-000000000001',
     'd0000001-0000-4000-8000-000000000001',
     '[{"id": "finance-block-unverified", "name": "No refund for an unverified customer",
        "spec_id": "finance.refund", "scope_id": "5c000002-0000-4000-8000-000000000002",
        "conditions": [{"field": "customer_verified", "operator": "==", "value": false}], "verdict": "BLOCK"},
       {"id": "finance-pause-large", "name": "A person looks at large refunds",
        "spec_id": "finance.refund", "scope_id": "5c000001-0000-4000-8000-000000000001",
        "conditions": [{"field": "amount", "operator": ">", "value": 500}], "verdict": "PAUSE"}]'),
    ('a0000003-0000-4000-8000-000000000003', 1, '00000000-0000-0000-0000-000000000001',
     'd0000002-0000-4000-8000-000000000002',
     '[{"id": "logistics-pause-air", "name": "Air freight needs approval",
        "spec_id": "logistics.reroute", "scope_id": "5c000003-0000-4000-8000-000000000003",
        "conditions": [{"field": "carrier", "operator": "in", "value": ["air"]}], "verdict": "PAUSE"}]'),
    ('a0000004-0000-4000-8000-000000000004', 1, '00000000-0000-0000-0000-000000000001',
     'd0000004-0000-4000-8000-000000000004',
     '[{"id": "infrastructure-block-red", "name": "Nothing ships on a red build",
        "spec_id": "infrastructure.deploy", "scope_id": "5c000005-0000-4000-8000-000000000005",
        "conditions": [{"field": "tests_passed", "operator": "==", "value": false}], "verdict": "BLOCK"}]');

COMMIT;
