CREATE SCHEMA IF NOT EXISTS mandate_conductor;

CREATE TABLE IF NOT EXISTS mandate_conductor.runs (
    run_id text PRIMARY KEY,
    migration text NOT NULL,
    title text NOT NULL,
    mode text NOT NULL,
    database text NOT NULL,
    server_version text NOT NULL,
    mandate_version text NOT NULL,
    host text NOT NULL,
    operator text NOT NULL,
    pid integer NOT NULL,
    directory text NOT NULL,
    status text NOT NULL CHECK (status IN ('running', 'complete', 'failed', 'interrupted', 'rolled-back', 'waiting')),
    exit_code integer,
    started_at timestamptz NOT NULL,
    finished_at timestamptz
);

CREATE TABLE IF NOT EXISTS mandate_conductor.steps (
    run_id text NOT NULL REFERENCES mandate_conductor.runs,
    ordinal integer NOT NULL,
    name text NOT NULL,
    title text NOT NULL,
    guide text NOT NULL,
    critical boolean NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'running', 'passed', 'failed', 'skipped', 'interrupted')),
    planned_seconds double precision,
    started_at timestamptz,
    finished_at timestamptz,
    summary text NOT NULL DEFAULT '',
    evidence jsonb NOT NULL DEFAULT '{}',
    warnings jsonb NOT NULL DEFAULT '[]',
    error jsonb,
    attempts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, name)
);

-- Every change of state, appended: steps holds where a run stands, this holds how it got there.
CREATE TABLE IF NOT EXISTS mandate_conductor.events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL REFERENCES mandate_conductor.runs,
    step text,
    status text NOT NULL,
    message text NOT NULL DEFAULT '',
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
