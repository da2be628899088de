-- Inside the swap back of 009, once the old tables are in place again and the new ones aside: version 8 says by status which
-- spec decides, and has nothing of what the swap made. Events are kept for the next time.
CREATE TABLE IF NOT EXISTS mandate_conductor.migration_009_spec_events (LIKE mandate.spec_events);
DELETE FROM mandate_conductor.migration_009_spec_events;
INSERT INTO mandate_conductor.migration_009_spec_events SELECT * FROM mandate.spec_events;
CREATE TEMP TABLE m009_status ON COMMIT DROP AS
SELECT s.spec_id, s.version, CASE WHEN l.event = 'activated' AND (l.spec_id, l.version) = (s.spec_id, s.version)
                                  THEN 'active' ELSE 'deprecated' END AS status
FROM mandate.mandate_specs s
JOIN LATERAL (
    SELECT e.event, e.spec_id, e.version FROM mandate.spec_events e
    WHERE (e.organization_id, e.domain, e.intent, e.stage) = (s.organization_id, s.domain, s.intent, s.stage)
    ORDER BY e.position DESC LIMIT 1
) l ON true
WHERE s.status = 'active' OR l.event = 'activated' AND (l.spec_id, l.version) = (s.spec_id, s.version);
DROP TABLE mandate.spec_events;
DO $$
DECLARE
    item record;
BEGIN
    CREATE TEMP TABLE m009_triggers ON COMMIT DROP AS
    SELECT t.tgrelid::regclass AS tab, t.tgname, t.tgenabled FROM pg_catalog.pg_trigger t
    WHERE t.tgrelid IN ('mandate.mandate_specs'::regclass, 'mandate.migration_log'::regclass)
      AND NOT t.tgisinternal AND t.tgenabled <> 'D';
    FOR item IN SELECT * FROM m009_triggers LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', item.tab, item.tgname);
    END LOOP;
    UPDATE mandate.mandate_specs s SET status = m.status FROM m009_status m
    WHERE m.spec_id = s.spec_id AND m.version = s.version AND m.status <> s.status;
    DELETE FROM mandate.migration_log WHERE migration_version = 9;
    FOR item IN SELECT * FROM m009_triggers LOOP
        EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', item.tab,
                       CASE item.tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END, item.tgname);
    END LOOP;
    FOR item IN SELECT replace(definition, ' ON mandate_pre_009.', ' ON mandate.') AS definition
                FROM mandate_conductor.migration_009_made LOOP
        EXECUTE item.definition;
    END LOOP;
END
$$;
DROP TRIGGER fill_verdict_events_owning_team ON mandate_new_009.verdict_events;
DROP TRIGGER activate_mandate_specs ON mandate_new_009.mandate_specs;
DROP FUNCTION mandate.fill_verdict_owning_team(), mandate.activate_spec(), mandate.validate_spec_event();
DELETE FROM mandate_conductor.migration_009_made;
SELECT pg_notify('mandate_changed', '');
