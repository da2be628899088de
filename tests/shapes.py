"""Version 7 as it is found in the field: one shape a name."""

from __future__ import annotations

from dataclasses import dataclass

from tests.servers import DatabaseFactory
from tests.sqlfiles import MIGRATIONS, RECORD, prepare

from mandate.postgres.connection import Target
from mandate.postgres.embedded import EmbeddedServer

EVENTS = ("scopes", "policy_snapshots", "decision_events", "verdict_events", "audit_timeline_entries")
V7_FILES = sorted(path.name for path in MIGRATIONS.glob("00[1-7]_*.sql"))


@dataclass(frozen=True)
class Shape:
    """SQL that makes version 7 what it is in the field, and what to take away afterwards."""

    change: str
    extras: str = ""
    without: tuple[str, ...] = ()


def for_events(template: str) -> str:
    return "\n".join(template.format(table=table) for table in EVENTS)


FOREIGN_KEYS = """
DO $$ DECLARE f record; BEGIN
    FOR f IN SELECT conname, conrelid::regclass AS tab, pg_get_constraintdef(oid) AS definition
             FROM pg_constraint WHERE contype = 'f' AND connamespace = 'mandate'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', f.tab, f.conname);
        {then}
    END LOOP;
END $$;
"""

SHAPES = {
    "full": Shape(RECORD),
    "bare": Shape("", without=("003", "004", "006")),
    "no-samples": Shape(RECORD, without=("004", "006")),
    "empty-domain-texts": Shape(
        RECORD
        + "ALTER TABLE verdict_events DROP COLUMN domain;"
        + for_events("ALTER TABLE {table} ADD COLUMN domain text;")
        + "ALTER TABLE domains ADD COLUMN domain text;"
    ),
    "filled-domain-texts": Shape(
        RECORD
        + for_events(
            "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS domain text;"
            "ALTER TABLE {table} DISABLE TRIGGER USER;"
            "UPDATE {table} t SET domain = d.name FROM domains d WHERE d.domain_id = t.domain_id;"
            "ALTER TABLE {table} ENABLE TRIGGER USER;"
            "CREATE INDEX ON {table} (domain);"
        )
        + "CREATE INDEX idx_audit_timeline_organization_domain"
        " ON audit_timeline_entries (organization_id, domain);"
        + "ALTER TABLE domains ADD COLUMN domain text NOT NULL DEFAULT '';"
    ),
    "not-null-already": Shape(
        RECORD
        + for_events(
            "ALTER TABLE {table} ALTER domain_id SET NOT NULL, ALTER organization_id SET NOT NULL,"
            " ALTER domain_id SET DEFAULT 'd0000001-0000-4000-8000-000000000001';"
        )
    ),
    "no-foreign-keys": Shape(RECORD + FOREIGN_KEYS.replace("{then}", "")),
    "foreign-keys-not-valid": Shape(
        RECORD
        + FOREIGN_KEYS.replace(
            "{then}",
            "EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT VALID',"
            " f.tab, f.conname, f.definition);",
        )
    ),
    "no-triggers-no-indexes": Shape(
        RECORD
        + "DROP TRIGGER prevent_scopes_mutation ON scopes;"
        + "DROP TRIGGER prevent_audit_timeline_mutation ON audit_timeline_entries;"
        + "DROP INDEX idx_decision_events_domain_id, idx_verdict_events_domain;"
    ),
    "odd-names": Shape(
        RECORD
        + "ALTER INDEX idx_decision_events_domain_id RENAME TO by_domain;"
        + "ALTER INDEX scopes_selectors_key RENAME TO one_scope;"
        + "ALTER TABLE decision_events RENAME CONSTRAINT decision_events_domain_id_fkey TO d;"
        + "ALTER TABLE domains RENAME CONSTRAINT domains_organization_id_name_key TO unique_name;"
    ),
    "extras": Shape(
        RECORD
        + """
        CREATE TABLE notes (note_id int PRIMARY KEY, decision_id uuid REFERENCES decision_events, body text);
        INSERT INTO notes SELECT 1, min(decision_id::text)::uuid, 'kept' FROM decision_events;
        ALTER TABLE decision_events ADD COLUMN ticket text;
        ALTER TABLE scopes ADD COLUMN cost_centre int DEFAULT 7;
        CREATE INDEX by_ticket ON decision_events (ticket);
        CREATE INDEX by_domain_time ON decision_events (domain_id, timestamp DESC)
            WHERE stage = 'pre_commit';
        CREATE INDEX by_text ON verdict_events (lower(domain), timestamp);
        CREATE VIEW recent AS SELECT decision_id, intent, ticket FROM decision_events
            WHERE timestamp > '2025-01-02';
        CREATE VIEW names AS SELECT organization_id, name FROM domains;
        COMMENT ON COLUMN decision_events.domain_id IS 'whose';
        CREATE FUNCTION count_notes() RETURNS bigint
            LANGUAGE sql AS 'SELECT count(*) FROM mandate.notes';
        """,
        """
        DROP VIEW IF EXISTS recent, names;
        DROP FUNCTION count_notes; DROP INDEX by_ticket, by_domain_time, by_text;
        ALTER TABLE decision_events DROP COLUMN ticket; ALTER TABLE scopes DROP COLUMN cost_centre;
        COMMENT ON COLUMN decision_events.domain IS NULL; DROP TABLE notes;
        """,
    ),
}


def make(database: DatabaseFactory, server: EmbeddedServer, shape: Shape) -> Target:
    if not shape.without:
        target = database("v7", server=server)
    else:
        target = database("empty", server=server)
        for name in V7_FILES:
            if name[:3] not in shape.without:
                prepare(target, (MIGRATIONS / name).read_text("utf-8"))
    if shape.change:
        prepare(target, shape.change)
    return target
