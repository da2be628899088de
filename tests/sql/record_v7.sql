-- A small record for version 7 (needs migration 003). Two organizations that both have a `finance`; three scopes that
-- arrive at one readable id; keys in policies, some in capitals; evidence with keys of its own.
SET search_path = mandate, public;
INSERT INTO organizations (organization_id, name) VALUES
    ('00000000-0000-0000-0000-000000000002', 'Other');
INSERT INTO domains (domain_id, organization_id, name) VALUES
    ('d0000006-0000-4000-8000-000000000006', '00000000-0000-0000-0000-000000000002', 'finance'),
    ('d0000007-0000-4000-8000-000000000007', '00000000-0000-0000-0000-000000000002', 'r_d');
INSERT INTO scopes (scope_id, organization_id, domain_id, scope_domain, environment, service, agent) VALUES
    ('5c100001-0000-4000-8000-000000000001', '00000000-0000-0000-0000-000000000002',
     'd0000006-0000-4000-8000-000000000006', NULL, 'prod', 'Pay Roll', 'bot'),
    ('5c100002-0000-4000-8000-000000000002', '00000000-0000-0000-0000-000000000002',
     'd0000006-0000-4000-8000-000000000006', NULL, 'prod', 'pay.roll', 'bot'),
    ('5c100003-0000-4000-8000-000000000003', '00000000-0000-0000-0000-000000000002',
     'd0000006-0000-4000-8000-000000000006', NULL, 'PROD', 'pay-roll', 'bot'),
    ('5c100004-0000-4000-8000-000000000004', '00000000-0000-0000-0000-000000000002',
     'd0000007-0000-4000-8000-000000000007', '', '', '', '');
INSERT INTO policy_snapshots (snapshot_id, version, organization_id, domain_id, policies) VALUES
    ('a1000001-0000-4000-8000-000000000001', 1, '00000000-0000-0000-0000-000000000002',
     'd0000006-0000-4000-8000-000000000006',
     '[{"id": "a", "scope_id": "5C100001-0000-4000-8000-000000000001", "verdict": "BLOCK",
        "domain_id": "d0000006-0000-4000-8000-000000000006", "conditions": []},
       {"id": "b", "scope_id": null, "domain": "finance", "verdict": "ALLOW"}, "a remark"]'),
    ('a1000002-0000-4000-8000-000000000002', 1, '00000000-0000-0000-0000-000000000002',
     'd0000007-0000-4000-8000-000000000007', '[]');
CREATE TEMP VIEW places AS
SELECT row_number() OVER (ORDER BY s.scope_id) - 1 AS n, count(*) OVER () AS total, s.scope_id, s.organization_id,
       s.domain_id, d.name
FROM scopes s JOIN domains d USING (domain_id);
INSERT INTO decision_events (decision_id, intent, stage, actor, target, context, scope, timestamp,
                             organization_id, domain_id)
SELECT md5('decision' || g)::uuid, 'intent-' || g % 3, 'pre_commit', 'agent-' || g % 4, 'target-' || g,
       jsonb_build_object('amount', g, 'domain_id', p.domain_id, 'note', repeat('evidence ', g)),
       jsonb_build_object('scope_id', upper(p.scope_id::text)), timestamptz '2025-01-01 00:00Z' + g * interval '1 hour',
       p.organization_id, p.domain_id
FROM generate_series(1, 40) g JOIN places p ON p.n = g % p.total;
INSERT INTO verdict_events (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids, timestamp,
                            organization_id, domain_id, scope_id, domain, owning_team)
SELECT md5('verdict' || g)::uuid, md5('decision' || g)::uuid, 'a1000001-0000-4000-8000-000000000001', 'ALLOW', '{a,b}',
       timestamptz '2025-01-01 00:00Z' + g * interval '1 hour', p.organization_id, p.domain_id,
       CASE WHEN g % 5 > 0 THEN p.scope_id END, CASE WHEN g % 2 = 0 THEN p.name END, 'Team'
FROM generate_series(1, 40) g JOIN places p ON p.n = g % p.total;
INSERT INTO audit_timeline_entries (entry_id, decision_id, intent, stage, actor, target, summary, details, severity,
                                    event_source, authority_level, timestamp, organization_id, domain_id)
SELECT md5('entry' || g || k)::uuid, md5('decision' || g)::uuid, 'intent-' || g % 3, 'pre_commit', 'agent-' || g % 4,
       'target-' || g, 'summary', jsonb_build_object('scope_id', p.scope_id, 'k', k), 'info', 'agent', 'agent',
       timestamptz '2025-01-01 00:00Z' + g * interval '1 hour', p.organization_id, p.domain_id
FROM generate_series(1, 40) g JOIN places p ON p.n = g % p.total CROSS JOIN generate_series(1, 2) k;
DROP VIEW places;
