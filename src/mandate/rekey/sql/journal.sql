CREATE SCHEMA IF NOT EXISTS mandate_conductor;

CREATE TABLE IF NOT EXISTS mandate_conductor.rekeys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    status text NOT NULL CHECK (status IN ('running', 'swapped', 'rolled back', 'finalized', 'aborted')),
    spec jsonb NOT NULL,
    graph jsonb,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    swapped_at timestamptz,
    ended_at timestamptz,
    paused boolean NOT NULL DEFAULT false,
    hold_cutover boolean NOT NULL DEFAULT false,
    abort boolean NOT NULL DEFAULT false,
    throttle double precision CHECK (throttle > 0 AND throttle <= 1),
    waiting text
);

CREATE TABLE IF NOT EXISTS mandate_conductor.rekey_phases (
    rekey bigint NOT NULL REFERENCES mandate_conductor.rekeys,
    phase text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    evidence jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (rekey, phase)
);

-- How far a change is, written every second while one is worked on: apart from rekeys, whose rows the cutover locks.
CREATE TABLE IF NOT EXISTS mandate_conductor.rekey_progress (
    rekey bigint PRIMARY KEY REFERENCES mandate_conductor.rekeys,
    at timestamptz NOT NULL,
    progress jsonb NOT NULL
) WITH (fillfactor = 50);
