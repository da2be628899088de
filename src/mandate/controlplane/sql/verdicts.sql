-- A page of verdicts, newest first; of one decision when decision_id is given.
SELECT v.timestamp::text AS position_1, concat_ws(' ', v.verdict_id, v.organization_id) AS position_2,
    json_build_object(
        'verdict_id', v.verdict_id, 'organization_id', v.organization_id, 'domain', v.domain,
        'decision_id', v.decision_id, 'snapshot_id', v.snapshot_id, 'verdict', v.verdict,
        'matched_policy_ids', v.matched_policy_ids,
        -- No version has a column for it: it is in the timeline entry that recorded the verdict.
        'explanation', (
            SELECT COALESCE(t.details -> 'explanation', to_jsonb(t.summary))
            FROM mandate.audit_timeline_entries t
            WHERE t.decision_id = v.decision_id /* tenant: t, v */
                AND (%(principal_organization)s::uuid IS NULL OR t.organization_id = (SELECT %(principal_organization)s::uuid))
                AND t.details ->> 'type' = 'VERDICT_ISSUED'
            ORDER BY t.timestamp DESC, t.entry_id DESC
            LIMIT 1
        ),
        'spec_id', v.spec_id, 'spec_version', v.spec_version, 'scope_id', v.scope_id,
        'owning_team', v.owning_team, 'timestamp', v.timestamp
    )::text AS body
FROM verdict v
LEFT JOIN mandate.decision_events d ON d.decision_id = v.decision_id /* tenant: d, v */
    AND (%(principal_organization)s::uuid IS NULL OR d.organization_id = (SELECT %(principal_organization)s::uuid))
WHERE (%(decision_id)s::uuid IS NULL OR v.decision_id = %(decision_id)s)
    AND (%(organization_id)s::uuid IS NULL OR v.organization_id = %(organization_id)s)
    AND (%(intent)s::text IS NULL OR d.intent = %(intent)s)
    AND (%(stage)s::mandate.stage IS NULL OR d.stage = %(stage)s)
    AND (%(actor)s::text IS NULL OR d.actor = %(actor)s)
    AND (%(target)s::text IS NULL OR d.target = %(target)s)
    AND (%(verdict)s::mandate.verdict IS NULL OR v.verdict = %(verdict)s)
    AND (%(since)s::timestamptz IS NULL OR v.timestamp >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR v.timestamp < %(until)s)
    AND (%(after_1)s::text IS NULL
        OR (v.timestamp, v.verdict_id, v.organization_id) < (%(after_1)s::text::timestamptz, split_part(%(after_2)s::text, ' ', 1)::uuid,
            COALESCE(NULLIF(split_part(%(after_2)s::text, ' ', 2), ''), %(nobody)s)::uuid))
ORDER BY v.timestamp DESC, v.verdict_id DESC, v.organization_id DESC
LIMIT %(limit)s
