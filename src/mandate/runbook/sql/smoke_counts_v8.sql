-- What the service must be able to show: decisions of one domain (counted up to 501), and whether there are any. Where a
-- token is used, of its organization and domains.
SELECT
    (SELECT count(*) FROM (
        SELECT FROM mandate.decision_events d
        WHERE d.domain = %(domain)s
            AND (%(organization_id)s::uuid IS NULL OR d.organization_id = %(organization_id)s::uuid)
            AND (%(domains)s::text[] IS NULL OR d.domain = ANY (%(domains)s::text[]))
        LIMIT 501
    ) AS found) AS of_domain,
    EXISTS (
        SELECT FROM mandate.decision_events d
        WHERE (%(organization_id)s::uuid IS NULL OR d.organization_id = %(organization_id)s::uuid)
            AND (%(domains)s::text[] IS NULL OR d.domain = ANY (%(domains)s::text[]))
    ) AS decisions,
    EXISTS (
        SELECT FROM mandate.verdict_events v
        WHERE (%(organization_id)s::uuid IS NULL OR v.organization_id = %(organization_id)s::uuid)
            AND (%(domains)s::text[] IS NULL OR v.domain = ANY (%(domains)s::text[]))
    ) AS verdicts
