"""The 008 files under bad conditions: a hostile psqlrc, a kill, a held lock, a wrong database."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers import DatabaseFactory
from tests.sqlfiles import (
    MIGRATION,
    PRE_CHECKS,
    RECORD,
    REFERENCE,
    VERIFICATION,
    attribution,
    dump,
    migrate,
    prepare,
    psql,
)

from mandate.postgres import programs
from mandate.postgres.connection import Target, connect


@pytest.fixture
def hostile_psqlrc(tmp_path: Path) -> Path:
    rc = tmp_path / "psqlrc"
    rc.write_text(
        "\\set QUIET on\n\\set AUTOCOMMIT off\n\\set ON_ERROR_STOP off\n\\set ON_ERROR_ROLLBACK on\n"
        "\\set ECHO all\n"
        "\\set ECHO_HIDDEN on\n\\set FETCH_COUNT 1\n\\set VERBOSITY verbose\n\\set SINGLELINE on\n"
        "\\timing on\n\\x on\n\\pset format html\n\\pset fieldsep '#'\n\\pset null 'NIL'\n"
        "\\pset footer on\n\\pset title 'Hello'\n\\pset tuples_only off\n\\pset border 2\n"
        "SET search_path = pg_catalog; SET default_transaction_isolation = 'serializable';\n"
        "SET default_transaction_read_only = on; SET client_min_messages = debug1;\n"
        "SET row_security = on;\n"
        "SET statement_timeout = '900s'; COMMIT;\n"
    )
    return rc


@pytest.mark.parametrize("file", [PRE_CHECKS, MIGRATION, VERIFICATION], ids=lambda path: path.name)
def test_a_hostile_psqlrc_changes_nothing(
    database: DatabaseFactory, hostile_psqlrc: Path, file: Path
) -> None:
    target = database("v8" if file == VERIFICATION else "v7")
    plain = database("v8" if file == VERIFICATION else "v7")
    expected = psql(plain, file)
    done = psql(target, file, environment={"PSQLRC": str(hostile_psqlrc)}, rc=True)
    assert done.returncode == expected.returncode == 0, done.stderr
    ours = done.stdout[done.stdout.index(expected.stdout.splitlines()[0]) :]
    assert ours == expected.stdout
    if file == MIGRATION:
        assert dump(target) == dump(plain) == REFERENCE.read_text("utf-8")


def test_an_error_stops_it_under_a_hostile_psqlrc(database: DatabaseFactory, hostile_psqlrc: Path) -> None:
    target = database("v7")
    prepare(target, "INSERT INTO scopes (scope_id) VALUES ('5c300000-0000-4000-8000-000000000000');")
    before = dump(target)
    done = psql(target, MIGRATION, environment={"PSQLRC": str(hostile_psqlrc)}, rc=True)
    assert done.returncode == 3
    assert "scopes: 1 rows without domain_id" in done.stderr
    assert done.stdout.endswith("BEGIN\nSET\n")
    assert dump(target) == before


@pytest.fixture
def half_done(database: DatabaseFactory) -> Iterator[tuple[Target, subprocess.Popen[str]]]:
    """psql in the middle of the migration: decision_events rewritten, the rest not."""
    target = database("v7")
    prepare(target, RECORD)
    text = MIGRATION.read_text("utf-8")
    marker = "SELECT * FROM pg_temp.m008_constrain('verdict_events', true);"
    process = subprocess.Popen(
        [str(programs.find("psql", 18)), "--no-psqlrc"],
        env=programs.environment(target, {"PGAPPNAME": "half-done"}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(text[: text.index(marker)])
    process.stdin.flush()
    for line in process.stdout:
        if "decision_events: rewritten once" in line:
            break
    yield target, process
    process.kill()
    process.wait()


def test_killed_in_the_middle_it_leaves_the_old_database(
    half_done: tuple[Target, subprocess.Popen[str]], database: DatabaseFactory
) -> None:
    target, process = half_done
    intact = database("v7")
    prepare(intact, RECORD)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # Waits for the locks that the dead session's backend still holds, if it does.
    prepare(target, "BEGIN; LOCK TABLE decision_events, domains IN ACCESS EXCLUSIVE MODE; COMMIT;")
    assert dump(target) == dump(intact)
    with connect(target) as session, connect(intact) as other:
        assert attribution(session, "verdict_events", "domain_id") == attribution(
            other, "verdict_events", "domain_id"
        )
    migrate(target)
    assert dump(target) == REFERENCE.read_text("utf-8")


def test_a_second_run_at_the_same_time_is_refused(half_done: tuple[Target, subprocess.Popen[str]]) -> None:
    target, _ = half_done
    done = psql(target, MIGRATION)
    assert done.returncode == 3
    assert "another session is running migration 008 in this database" in done.stderr


def test_a_lock_held_by_somebody_is_named(database: DatabaseFactory) -> None:
    target = database("v7")
    before = dump(target)
    with connect(target, application_name="a-reader") as session, session.transaction():
        session.execute("SELECT count(*) FROM verdict_events")
        done = psql(target, MIGRATION, environment={"PGOPTIONS": "-c lock_timeout=100ms"})
        assert done.returncode == 3
        assert "lock timeout: mandate.verdict_events could not be locked within 100ms" in done.stderr
        assert f"pid {session.pid} (postgres, a-reader, idle in transaction)" in done.stderr
    assert dump(target) == before


@pytest.mark.parametrize("file", [PRE_CHECKS, MIGRATION, VERIFICATION], ids=lambda path: path.name)
def test_a_database_that_is_not_mandates(database: DatabaseFactory, file: Path) -> None:
    target = database("empty")
    done = psql(target, file)
    assert done.returncode == 3
    assert f'ERROR:  database "{target.database}" is not a Mandate database' in done.stderr
