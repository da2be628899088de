-- What the service must be able to show: decisions of one domain (counted up to 501), and whether there are any. Where a
-- token is used, of its organization and domains.
WITH seen AS (
    SELECT n.domain_id, n.name FROM mandate.domains n
    WHERE (%(organization_id)s::uuid IS NULL OR n.organization_id = %(organization_id)s::uuid)
        AND (%(domains)s::text[] IS NULL OR n.name = ANY (%(domains)s::text[]))
)
SELECT
    (SELECT count(*) FROM (
        SELECT FROM mandate.decision_events d
        WHERE d.domain_id IN (SELECT s.domain_id FROM seen s WHERE s.name = %(domain)s)
        LIMIT 501
    ) AS found) AS of_domain,
    EXISTS (
        SELECT FROM mandate.decision_events d
        WHERE %(organization_id)s::uuid IS NULL OR d.domain_id IN (SELECT domain_id FROM seen)
    ) AS decisions,
    EXISTS (
        SELECT FROM mandate.verdict_events v
        WHERE %(organization_id)s::uuid IS NULL OR v.domain_id IN (SELECT domain_id FROM seen)
    ) AS verdicts
