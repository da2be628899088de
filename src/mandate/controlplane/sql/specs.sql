-- A page of spec versions, by id, the newest version of each first.
SELECT s.spec_id AS position_1, concat_ws(' ', s.version, s.organization_id) AS position_2,
    json_build_object(
        'spec_id', s.spec_id, 'version', s.version, 'organization_id', s.organization_id, 'domain', s.domain,
        'intent', s.intent, 'stage', s.stage, 'allowed_verdicts', s.allowed_verdicts, 'signals', s.signals,
        'enforcement', s.enforcement, 'status', s.status, 'replaced_by', s.replaced_by,
        'created_at', s.created_at
    )::text AS body
FROM spec s
WHERE (%(spec_id)s::text IS NULL OR s.spec_id = %(spec_id)s)
    AND (%(version)s::bigint IS NULL OR s.version = %(version)s::bigint)
    AND (%(organization_id)s::uuid IS NULL OR s.organization_id = %(organization_id)s)
    AND (%(intent)s::text IS NULL OR s.intent = %(intent)s)
    AND (%(stage)s::mandate.stage IS NULL OR s.stage = %(stage)s)
    AND (%(status)s::text IS NULL OR s.status = %(status)s)
    AND (%(after_1)s::text IS NULL
        OR (s.spec_id, -s.version::bigint, s.organization_id) > (%(after_1)s::text,
            -(split_part(%(after_2)s::text, ' ', 1)::bigint), COALESCE(NULLIF(split_part(%(after_2)s::text, ' ', 2), ''), %(nobody)s)::uuid))
ORDER BY s.spec_id, s.version DESC, s.organization_id
LIMIT %(limit)s
