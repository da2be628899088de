-- For pgbench, with -D decisions=N: the rows that the service writes for so many decisions, in one statement and
-- one commit. The text is what the service records.
\set number random(1, 1000000)
\set amount random(1, 1000)
WITH decided AS (
    INSERT INTO mandate.decision_events
        (decision_id, intent, stage, actor, target, context, scope, timestamp, organization_id, domain, spec_id,
        spec_version)
    SELECT gen_random_uuid(), 'issue_refund', 'pre_commit', 'refund-agent', 'order/' || :number::int + nth,
        jsonb_build_object('amount', :amount::int, 'customer_verified', true, 'channel', 'api'),
        '{"service": "payments", "agent": "refund-agent", "environment": "prod"}', now(),
        '00000000-0000-0000-0000-000000000001', 'finance', 'finance.refund', 1
    FROM generate_series(1, :decisions::int) nth
    RETURNING decision_id, intent, stage, actor, target, organization_id, domain, spec_id, spec_version
), judged AS (
    INSERT INTO mandate.verdict_events
        (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids, timestamp, organization_id, domain, spec_id,
        spec_version, scope_id, owning_team)
    SELECT gen_random_uuid(), decision_id, 'a0000002-0000-4000-8000-000000000002', 'PAUSE', '{finance-pause-large}',
        now(), organization_id, domain, spec_id, spec_version, 'finance.prod.payments.refund-agent', 'Payments'
    FROM decided
)
INSERT INTO mandate.audit_timeline_entries
    (entry_id, decision_id, intent, stage, actor, target, summary, details, severity, event_source, authority_level,
    timestamp, organization_id, domain, spec_id, spec_version)
SELECT gen_random_uuid(), d.decision_id, d.intent, d.stage, d.actor, d.target, e.summary, e.details::jsonb, e.severity,
    e.source::mandate.event_source, e.source::mandate.authority_level, now(), d.organization_id, d.domain, d.spec_id,
    d.spec_version
FROM decided d, (VALUES
    ('Decision recorded: issue_refund, pre_commit', '{"type": "DECISION_RECORDED"}', 'info', 'agent'),
    ('Verdict PAUSE: finance-pause-large', '{"type": "VERDICT_ISSUED", "verdict": "PAUSE", "snapshot_version": 2,
        "explanation": "finance-pause-large says PAUSE: amount 740 > 500", "trace": [
            "finance-block-unverified (BLOCK) does not match: customer_verified true == false (no)",
            "finance-pause-large (PAUSE) matches: amount 740 > 500"]}', 'warning', 'system')
) e (summary, details, severity, source);
