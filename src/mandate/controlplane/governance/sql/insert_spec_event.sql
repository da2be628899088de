INSERT INTO mandate.spec_events (organization_id, domain, intent, stage, event, spec_id, version, actor)
VALUES (%(organization_id)s::text::uuid, %(domain)s, %(intent)s, %(stage)s::text::mandate.stage, %(event)s,
    %(spec_id)s, %(version)s, current_setting('application_name'))
