-- How many decisions there are to replay.
SELECT count(*) AS decisions
FROM decision d
WHERE (d.timestamp, d.decision_id) > (%(after_time)s::timestamptz, %(after_id)s::uuid)
    AND d.received_at >= %(since)s::timestamptz AND d.received_at < %(until)s::timestamptz
    AND d.received_at <= %(received)s::timestamptz
    AND (%(organizations)s::uuid[] IS NULL
        OR (d.organization_id, d.domain) IN (SELECT * FROM unnest(%(organizations)s::uuid[], %(domains)s::text[])))
    AND (%(organization_id)s::uuid IS NULL OR d.organization_id = %(organization_id)s::uuid)
    AND (%(domain)s::text IS NULL OR d.domain = %(domain)s)
    AND (%(intent)s::text IS NULL OR d.intent = %(intent)s)
