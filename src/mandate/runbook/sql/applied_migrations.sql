CREATE SCHEMA IF NOT EXISTS mandate_conductor;

-- sha256 is NULL for a version that was found in place, not applied by `mandate db init`.
CREATE TABLE IF NOT EXISTS mandate_conductor.applied_migrations (
    version integer PRIMARY KEY,
    filename text NOT NULL,
    sha256 text,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL DEFAULT session_user
);
