-- What the service must be able to show: decisions of one domain (counted up to 501), and whether there are any.
SELECT
    (SELECT count(*) FROM (
        SELECT FROM mandate.decision_events d
        WHERE d.domain_id IN (SELECT n.domain_id FROM mandate.domains n WHERE n.name = %(domain)s)
        LIMIT 501
    ) AS found) AS of_domain,
    EXISTS (SELECT FROM mandate.decision_events) AS decisions,
    EXISTS (SELECT FROM mandate.verdict_events) AS verdicts
