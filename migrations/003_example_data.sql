-- 003: an example organization with five domains and a few scopes. Optional; a production database may lack it.

\set ON_ERROR_STOP on

BEGIN;

INSERT INTO mandate.organizations (organization_id, name, description) VALUES
    ('00000000-0000-0000-0000-000000000001', 'Example', 'Example organization');

INSERT INTO mandate.domains (domain_id, organization_id, name, description) VALUES
    ('d0000001-0000-4000-8000-000000000001', '00000000-0000-0000-0000-000000000001', 'finance',
     'Payments, refunds and credit'),
    ('d0000002-0000-4000-8000-000000000002', '00000000-0000-0000-0000-000000000001', 'logistics',
     'Shipments and inventory'),
    ('d0000003-0000-4000-8000-000000000003', '00000000-0000-0000-0000-000000000001', 'customer-support',
     'Tickets and goodwill'),
    ('d0000004-0000-4000-8000-000000000004', '00000000-0000-0000-0000-000000000001', 'infrastructure',
     'Deployments and access'),
    ('d0000005-0000-4000-8000-000000000005', '00000000-0000-0000-0000-000000000001', 'hr',
     'People data');

INSERT INTO mandate.scopes
    (scope_id, organization_id, domain_id, scope_domain, environment, service, agent, scope_system, tenant,
     owning_team, owner_contact, description)
VALUES
    ('5c000001-0000-4000-8000-000000000001', '00000000-0000-0000-0000-000000000001',
     'd0000001-0000-4000-8000-000000000001', 'finance', 'prod', 'payments', 'refund-agent', NULL, NULL,
     'Payments', 'payments@example.com', 'Refunds in production'),
    ('5c000002-0000-4000-8000-000000000002', '00000000-0000-0000-0000-000000000001',
     'd0000001-0000-4000-8000-000000000001', 'finance', NULL, NULL, NULL, NULL, NULL,
     'Finance Operations', 'finops@example.com', 'Everything in finance'),
    ('5c000003-0000-4000-8000-000000000003', '00000000-0000-0000-0000-000000000001',
     'd0000002-0000-4000-8000-000000000002', 'logistics', 'prod', 'dispatch', 'Route Planner', 'WMS', NULL,
     'Dispatch', 'dispatch@example.com', 'Route planning in production'),
    ('5c000004-0000-4000-8000-000000000004', '00000000-0000-0000-0000-000000000001',
     'd0000003-0000-4000-8000-000000000003', 'customer-support', 'prod', 'tickets', NULL, NULL, 'eu',
     'Support', 'support@example.com', 'Tickets of the EU tenant'),
    ('5c000005-0000-4000-8000-000000000005', '00000000-0000-0000-0000-000000000001',
     'd0000004-0000-4000-8000-000000000004', 'infrastructure', 'staging', 'deploy', 'release-agent', NULL, NULL,
     'Platform', 'platform@example.com', 'Staging deployments'),
    ('5c000006-0000-4000-8000-000000000006', '00000000-0000-0000-0000-000000000001',
     'd0000005-0000-4000-8000-000000000005', 'hr', NULL, NULL, NULL, 'Workday', NULL,
     'People', 'people@example.com', 'Everything that touches Workday');

COMMIT;
