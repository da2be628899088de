"""The conductor killed, starved, shut out and lied to: wholly old or wholly new, one message, one code."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests import conducting
from tests.conducting import named_rows, seeded, version
from tests.servers import DatabaseFactory, running_server

from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect, sql
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


HURRIED = {
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "default_transaction_isolation": "serializable",
    "idle_in_transaction_session_timeout": "50ms",
    "idle_session_timeout": "100ms",
    "row_security": "off",
    "search_path": "public",
    "statement_timeout": "50ms",
    "transaction_timeout": "80ms",
}


def test_a_database_set_to_cut_everything_short_and_to_write_dates_in_german_is_migrated(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    before = named_rows(target)
    with connect(target) as session:
        for name, value in HURRIED.items():
            session.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    sql.Identifier(target.database), sql.Identifier(name), sql.Literal(value)
                )
            )
    done = conducting.run(target, tmp_path, "--yes")
    assert done.code == 0, done.stdout
    assert named_rows(target) == before


def test_a_read_only_database_is_refused_with_the_reason(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v7")
    with connect(target) as session:
        session.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                sql.Identifier(target.database)
            )
        )
    assert conducting.run(target, tmp_path, "--dry-run").code == 0
    done = conducting.run(target, tmp_path)
    assert done.code == 9
    assert "default_transaction_read_only" in done.stderr


def test_an_at_sign_in_a_password_is_not_taken_for_a_host_and_shown(tmp_path: Path) -> None:
    target = Target.from_dsn("dbname=mandate")
    done = conducting.command(target, tmp_path, "status", "--dsn", "postgresql://u:pa@secret@localhost/x")
    assert done.code == 2
    assert "%40" in done.stderr
    assert "secret" not in done.stderr


def test_the_owner_of_the_database_needs_no_more_than_createdb(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("empty")
    name, role = target.database, f"{target.database}_owner"
    with connect(target) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        session.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(role))
        )
    own = Target({**target.parameters, "user": role})
    try:
        migrations.init(own, to=7)
        refused = conducting.run(own, tmp_path)
        assert refused.code == 4
        assert "CREATEDB" in refused.stdout
        with connect(target) as session:
            session.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(role)))
        done = conducting.run(own, tmp_path, "--yes")
        assert done.code == 0, done.stdout
        back = conducting.command(own, tmp_path, "rollback", "008", "--from-backup", "--yes")
        assert back.code == 0, back.stdout
        assert version(target) == 7
    finally:
        _drop_role(target, role)


def _drop_role(target: Target, role: str) -> None:
    with connect(target.with_database("postgres")) as keeper:
        for found in keeper.rows(
            "SELECT datname FROM pg_database WHERE datdba = to_regrole(%s)::oid", (f'"{role}"',)
        ):
            keeper.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(found["datname"])))
        keeper.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_who_may_not_read_the_journal_is_told_what_to_grant(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7")
    assert conducting.run(target, tmp_path, "--yes", "--to", "preflight").code == 0
    role = f"{target.database}_reader"
    with connect(target) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    try:
        reader = Target({**target.parameters, "user": role})
        done = conducting.command(reader, tmp_path, "status")
        assert done.code == 9
        assert "GRANT USAGE ON SCHEMA" in done.stderr
        diagnosed = conducting.command(reader, tmp_path, "diagnose", "008")
        assert "current transaction is aborted" not in diagnosed.stderr + diagnosed.stdout
    finally:
        with connect(target) as session:
            session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte."""
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_for_run_json_and_report_still_tells_how_it_went(
    database: DatabaseFactory, tmp_path: Path, full_disk: Path
) -> None:
    target = seeded(database("v7"))
    with suppress(OSError), (full_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass
    env = {"MANDATE_RUN__DIRECTORY": str(full_disk / "runs")}
    done = conducting.run(target, tmp_path, "--yes", "--no-rehearsal", "--format", "json", env=env)
    assert done.code == 9, done.stderr
    assert done.json["run"]["status"] == "failed"
    assert "No space left" in done.json["error"]["message"]
    assert done.json["report_error"]["code"] == "needs-a-person"
    assert "Traceback" not in done.stderr
    assert conducting.command(target, tmp_path, "status").code == 0


def test_a_run_directory_that_cannot_be_made_is_told_before_anything_begins(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7")
    (tmp_path / "runs").write_text("a file, not a directory")
    done = conducting.run(target, tmp_path)
    assert done.code == 9
    assert "the run directory cannot be made" in done.stderr
    assert "Traceback" not in done.stderr
