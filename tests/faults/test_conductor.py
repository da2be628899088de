"""The conductor killed, starved, shut out and lied to: wholly old or wholly new, one message, one code."""

from __future__ import annotations

import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests import conducting
from tests.conducting import named_rows, seeded, version
from tests.servers import DatabaseFactory, running_server

from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect
from mandate.runbook import journal, migrations

pytestmark = pytest.mark.slow

STEPS = ("preflight", "stop", "backup", "check", "migrate", "verify", "probe", "record")
QUIET = ("--yes", "--no-rehearsal", "--format", "text")


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ((), STEPS),
        (("--online",), ("backup", "check", "migrate", "verify", "record")),
        (("--plain-sql",), ("check", "migrate", "verify")),
    ],
    ids=["engine", "online", "plain-sql"],
)
def test_killed_at_every_step_it_goes_on_and_ends_complete(
    database: DatabaseFactory, tmp_path: Path, flags: tuple[str, ...], steps: tuple[str, ...]
) -> None:
    target = seeded(database("v7"))
    before = named_rows(target)
    for place, step in enumerate(steps):
        # The mode is said once: what goes on goes on as it began.
        conductor = conducting.start(target, tmp_path, *QUIET, *(flags if place == 0 else ()))
        conductor.begins(step)
        conductor.kill()
        assert version(target) in (7, 8)
    done = conducting.run(target, tmp_path)
    assert done.code == 0, done.stderr
    assert version(target) == 8
    assert named_rows(target) == before
    with connect(target) as session:
        record = journal.load_record(session, migration="008")
        assert record is not None
        assert record.status == "complete"
        assert record.mode == (flags[0].removeprefix("--") if flags else "engine")
        runs = session.value("SELECT count(*) FROM mandate_conductor.runs")
    assert runs == 1, "a killed run is gone on with, not begun again"


def test_killed_in_the_rehearsal_it_begins_the_rehearsal_again(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    conductor = conducting.start(target, tmp_path, "--yes")
    conductor.begins("rehearse")
    conductor.kill()
    assert version(target) == 7
    done = conducting.run(target, tmp_path, "--yes")
    assert done.code == 0, done.stderr
    with connect(target) as session:
        left = session.rows("SELECT datname FROM pg_database WHERE datname LIKE 'mandate_scratch%'")
    assert left == []


def test_a_rehearsal_alone_that_was_killed_can_be_done_again_and_touches_nothing(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    before = named_rows(target)
    conductor = conducting.start(target, tmp_path, command="rehearse")
    conductor.begins("rehearse")
    conductor.kill()
    again = conducting.command(target, tmp_path, "rehearse", "008", "--format", "json")
    assert again.code == 0, again.stderr
    assert again.json["run"]["status"] == "complete"
    assert named_rows(target) == before
    with connect(target) as session:
        assert not session.rows("SELECT FROM pg_database WHERE datname LIKE 'mandate_scratch%'")
    planned = conducting.command(target, tmp_path, "plan", "008", "--format", "json").json
    assert any(step["name"] == "migrate" and step["seconds"] for step in planned["steps"])
    _rehearsal_tells_the_time(target, tmp_path, planned["engine"]["forecast"])
    assert conducting.run(target, tmp_path).code == 0
    late = conducting.command(target, tmp_path, "rehearse", "008", "--format", "json")
    assert late.code == 0
    assert "version 8" in late.json["nothing_to_do"]


def _rehearsal_tells_the_time(target: Target, place: Path, forecast: dict[str, Any]) -> None:
    """In the mode that was rehearsed, phase by phase."""
    with connect(target) as session:
        evidence = session.value("SELECT evidence FROM mandate_conductor.steps WHERE name = 'rehearse'")
    measured = {phase["name"]: phase["seconds"] for phase in evidence["phases"]}
    assert len(measured) == 9
    assert forecast["eta"]["source"] == "rehearsal"
    assert forecast["sample_seconds"] is None
    phases = {phase["phase"]: phase["seconds"] for phase in forecast["eta"]["phases"]}
    assert phases == pytest.approx(measured)
    page = conducting.command(target, place, "plan", "008").stdout
    assert "as long as the rehearsal of" in " ".join(page.split())
    other = conducting.command(target, place, "plan", "008", "--online", "--no-sample").stdout
    assert "rehearsal of" not in other


def test_psql_killed_in_the_migration_leaves_version_7_and_no_session(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    before = named_rows(target)
    with connect(target) as blocker:
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE mandate.audit_timeline_entries IN ACCESS SHARE MODE")
        conductor = conducting.start(
            target, tmp_path, "--yes", "--no-rehearsal", "--plain-sql", "--from", "preflight", env=IGNORE_ALL
        )
        conductor.begins("migrate")
        _kill_psql(target)
        blocker.execute("ROLLBACK")
    done = conductor.finish()
    assert done.code == 5
    assert "psql was killed by signal 9" in done.stderr + done.stdout
    assert version(target) == 7
    assert named_rows(target) == before
    with connect(target) as session:
        assert session.rows("SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%-psql'") == []
    assert conducting.run(target, tmp_path).code == 0


IGNORE_ALL = {"MANDATE_SERVICES__IGNORE_APPLICATIONS": '["*"]'}


def _kill_psql(target: Target) -> None:
    """End the psql whose session waits in the migration, from outside, as the kernel would."""
    _await_lock(target)
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "psql" and process.environ().get("PGDATABASE") == target.database:
            process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("flags", "hint"), [((), "end what is in its way"), (("--plain-sql",), "--lock-timeout")]
)
def test_a_lock_that_somebody_holds_ends_in_5_and_names_the_holder(
    database: DatabaseFactory, tmp_path: Path, flags: tuple[str, ...], hint: str
) -> None:
    target = seeded(database("v7"))
    with connect(target, application_name="forgotten-report") as blocker:
        blocker.execute("BEGIN")
        blocker.execute("SELECT count(*) FROM mandate.decision_events")
        asked = ("--yes", "--no-rehearsal", "--lock-timeout", "0.3", *flags)
        done = conducting.run(target, tmp_path, *asked, env=IGNORE_ALL)
        blocker.execute("ROLLBACK")
    assert done.code == 5, done.stderr
    assert "forgotten-report" in done.stdout
    assert hint in " ".join(done.stdout.split())
    assert version(target) == 7
    assert conducting.run(target, tmp_path).code == 0


def test_a_writer_that_stays_connected_ends_in_9_and_is_named(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    with connect(target, application_name="stubborn-agent"):
        done = conducting.run(target, tmp_path)
    assert done.code == 9
    assert "stubborn-agent" in done.stdout
    assert "pg_terminate_backend" in done.stdout
    assert version(target) == 7


def test_a_second_conductor_ends_in_7_and_names_the_first(database: DatabaseFactory, tmp_path: Path) -> None:
    target = seeded(database("v7"))
    first = conducting.start(target, tmp_path, *QUIET)
    first.begins("preflight")
    second = conducting.run(target, tmp_path, "--yes", "--wait", "0", "--format", "json")
    assert second.code == 7
    assert second.json["error"]["code"] == "locked"
    assert f"pid {first.process.pid}" in second.json["error"]["message"]
    assert first.finish().code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly_and_it_goes_on(
    database: DatabaseFactory, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    target = seeded(database("v7"))
    conductor = conducting.start(target, tmp_path, *QUIET)
    conductor.begins("backup")
    conductor.process.send_signal(number)
    assert conductor.finish().code == code
    with connect(target) as session:
        record = journal.load_record(session, migration="008")
        assert record is not None
        assert record.status == "interrupted"
        assert record.exit_code == code
    assert conducting.run(target, tmp_path).code == 0


def test_without_a_terminal_it_stops_with_10_before_the_services_and_goes_on_with_yes(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    done = conducting.run(target, tmp_path, "--no-rehearsal")
    assert done.code == 10
    assert "--yes" in done.stdout
    assert version(target) == 7
    assert conducting.run(target, tmp_path).code == 0


def test_from_and_to_run_a_part_and_refuse_to_leave_out_what_must_be_done(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    skipped = conducting.run(target, tmp_path, "--yes", "--from", "migrate")
    assert skipped.code == 2
    assert "stop" in skipped.stderr
    assert conducting.run(target, tmp_path, "--yes", "--from", "nonsense").code == 2
    begun = conducting.run(target, tmp_path, "--yes", "--to", "preflight")
    assert begun.code == 0, begun.stderr
    part = conducting.run(target, tmp_path, "--yes", "--no-rehearsal", "--to", "check")
    assert part.code == 0, part.stderr
    assert "rehearse" not in part.stderr, "what is left out is left out of a run that goes on, too"
    assert version(target) == 7
    rest = conducting.run(target, tmp_path, "--yes", "--from", "check")
    assert rest.code == 0, rest.stderr
    assert version(target) == 8


def test_dry_run_changes_nothing(database: DatabaseFactory, tmp_path: Path) -> None:
    target = seeded(database("v7"))
    done = conducting.run(target, tmp_path, "--dry-run", "--format", "json")
    assert done.code == 0
    assert done.json["schema_version"] == 7
    assert next(step["name"] for step in done.json["steps"]) == "preflight"
    with connect(target) as session:
        assert not journal.exists(session)
    assert list(tmp_path.iterdir()) == []


def test_run_again_on_version_8_does_nothing(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    done = conducting.run(target, tmp_path, "--yes", "--format", "json")
    assert done.code == 0
    assert "version 8" in done.json["nothing_to_do"]


def test_writes_between_two_attempts_make_the_backup_again(database: DatabaseFactory, tmp_path: Path) -> None:
    target = seeded(database("v7"))
    assert conducting.run(target, tmp_path, "--yes", "--no-rehearsal", "--to", "backup").code == 0
    with connect(target) as session:
        session.execute(
            "INSERT INTO mandate.organizations (organization_id, name) VALUES (gen_random_uuid(), 'late')"
        )
    done = conducting.run(target, tmp_path)
    assert done.code == 0
    assert "the backup of this run is made again" in done.stderr
    assert "mandate.organizations had" in done.stderr


def test_postgresql_away_is_one_clear_message(tmp_path: Path) -> None:
    target = Target.from_dsn("postgresql://postgres@localhost:1/mandate")
    done = conducting.run(target, tmp_path)
    assert done.code == 9
    assert "cannot reach PostgreSQL postgres@localhost:1/mandate" in done.stderr


def test_a_database_that_is_not_mandates_is_refused_with_3(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("empty")
    with connect(target) as session:
        session.execute("CREATE TABLE public.orders (id int)")
    done = conducting.run(target, tmp_path)
    assert done.code == 3
    assert "not a Mandate database" in done.stderr
    with connect(target) as session:
        assert session.value("SELECT to_regnamespace('mandate_conductor')") is None


def test_an_edited_migration_file_is_refused_with_3(database: DatabaseFactory, tmp_path: Path) -> None:
    files = tmp_path / "migrations"
    shutil.copytree(migrations.directory(), files)
    target = database("empty")
    env = {"MANDATE_MIGRATIONS_DIR": str(files)}
    conducting.command(target, tmp_path, "db", "init", "--to", "007")
    edited = files / "005_specs.sql"
    edited.write_text(edited.read_text() + "\n-- a small change\n")
    done = conducting.run(target, tmp_path, "--yes", env=env)
    assert done.code == 3
    assert "005_specs.sql was edited after it was applied" in done.stderr


@pytest.mark.parametrize(
    ("flag", "open_question"),
    [
        ("--plain-sql", "committed"),
        # tests/faults/test_rekey_stops.py stops the engine in every phase; this waits a minute.
        pytest.param("--offline", "swapped", marks=pytest.mark.thorough),
    ],
)
def test_postgresql_stopped_immediately_in_the_migration(
    tmp_path: Path, flag: str, open_question: str
) -> None:
    with running_server(18) as server:
        target = server.target("mandate")
        migrations.init(target, to=7)
        seeded(target)
        before = named_rows(target)
        with connect(target) as blocker:
            blocker.execute("BEGIN")
            blocker.execute("LOCK TABLE mandate.audit_timeline_entries IN ACCESS SHARE MODE")
            conductor = conducting.start(target, tmp_path, *QUIET, flag, env=IGNORE_ALL)
            conductor.begins("migrate")
            _await_lock(target)
            embedded.stop(server.data_dir, mode="immediate")
        done = conductor.finish()
        assert done.code == 9, done.stdout
        assert f"whether it {open_question} is not known" in " ".join(done.stdout.split())
        assert "unchanged" not in done.stdout
        embedded.start(server.data_dir, port=server.port)
        assert version(target) == 7
        assert named_rows(target) == before
        again = conducting.run(target, tmp_path)
        assert again.code == 0, again.stderr
        assert named_rows(target) == before


def _await_lock(target: Target) -> None:
    waiting = threading.Event()
    for _ in range(2400):
        with connect(target) as session:
            if session.rows(
                "SELECT pid FROM pg_stat_activity"
                " WHERE application_name ~ '-psql$|^mandate-rekey-008' AND wait_event_type = 'Lock'"
            ):
                return
        waiting.wait(0.05)
    raise AssertionError("the migration never waited for the lock")


def test_a_flag_that_does_not_exist_is_told_as_json_on_stdout(tmp_path: Path) -> None:
    target = Target.from_dsn("postgresql://postgres@localhost:1/mandate")
    for arguments in (["run"], ["run", "008", "--bogus"], ["nosuch"], ["run", "008", "--jobs", "0"]):
        done = conducting.command(target, tmp_path, *arguments, "--format", "json")
        assert done.code == 2
        assert done.json["schema"] == "mandate.error/1"
        assert done.json["error"]["code"] == "usage"
