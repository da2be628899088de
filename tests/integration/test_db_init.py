"""`db init`: which migrations a database gets, what is remembered, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path

import pytest
from tests.commands import mandate, spawn
from tests.conftest import MIGRATIONS
from tests.servers import DatabaseFactory

from mandate.errors import (
    AuthenticationFailed,
    DatabaseUnavailable,
    EditedMigration,
    MandateError,
    MigrationFailed,
    NeedsPerson,
    NotMandate,
    RunLocked,
    UsageError,
)
from mandate.postgres import lock
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.runbook import migrations

NEWEST = migrations.newest()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of migrations/ that a test may spoil, in force for it."""
    place = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, place)
    monkeypatch.setenv("MANDATE_MIGRATIONS_DIR", str(place))
    return place


def version(target: Target) -> int | None:
    with connect(target) as session:
        return migrations.schema_version(session)


def count(target: Target, query: bytes) -> int:
    with connect(target) as session:
        return int(session.value(query))


def test_an_empty_database_gets_every_version(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("empty", server=any_postgres)
    result = migrations.init(target)
    assert (result.version_before, result.version_after) == (0, NEWEST)
    assert [name for name, _ in result.applied] == [file.path.name for file in migrations.files()[:NEWEST]]
    assert version(target) == NEWEST
    with connect(target) as session:
        rows = migrations.applied(session)
        migrations.verify_unedited(session)
        assert session.value("SHOW search_path") == "mandate, public"
    assert [row.sha256 for row in rows] == [
        hashlib.sha256((MIGRATIONS / row.filename).read_bytes()).hexdigest() for row in rows
    ]
    assert {row.applied_by for row in rows} == {"postgres"}


def test_it_stops_where_it_is_told_and_goes_on_later(database: DatabaseFactory) -> None:
    target = database("empty")
    for to in range(1, 8):
        result = migrations.init(target, to=to)
        assert (result.version_before, result.version_after) == (to - 1, to)
        assert len(result.applied) == 1
    assert version(target) == 7
    again = migrations.init(target, to=7)
    assert again.applied == ()
    assert again.version_after == 7
    assert migrations.init(target).version_after == NEWEST


def test_examples_can_be_left_out(database: DatabaseFactory) -> None:
    target = database("empty")
    result = migrations.init(target, to=7, examples=False)
    assert [name[:3] for name in result.left_out] == ["003", "004", "006"]
    for table in (b"organizations", b"scopes", b"policy_snapshots", b"mandate_specs"):
        assert count(target, b"SELECT count(*) FROM mandate." + table) == 0
    # Left out is left out: they belong before 005 and 007, not after.
    assert migrations.init(target, to=7).applied == ()


def test_the_missing_database_is_created(postgres: EmbeddedServer, database: DatabaseFactory) -> None:
    name = database("empty").database + ' "odd" name'
    target = postgres.target(name)
    try:
        assert migrations.init(target, to=1).created is True
        assert migrations.init(target, to=1).created is False
        assert (
            count(
                target,
                b"SELECT count(*) FROM pg_database WHERE datname = current_database()"
                b" AND pg_encoding_to_char(encoding) = 'UTF8'",
            )
            == 1
        )
    finally:
        with connect(postgres.target()) as session:
            session.execute(b'DROP DATABASE "' + name.replace('"', '""').encode() + b'"')


def test_going_down_is_refused(database: DatabaseFactory) -> None:
    target = database("v8")
    with pytest.raises(UsageError, match="at version 8; `db init` never goes down to 7"):
        migrations.init(target, to=7)


def test_an_edited_file_is_refused_by_its_hash(database: DatabaseFactory, copied: Path) -> None:
    target = database("empty")
    migrations.init(target, to=6)
    edited = copied / "005_specs.sql"
    edited.write_text(edited.read_text() + "-- harmless\n")
    with pytest.raises(EditedMigration) as caught:
        migrations.init(target)
    old = hashlib.sha256((MIGRATIONS / "005_specs.sql").read_bytes()).hexdigest()[:12]
    new = hashlib.sha256(edited.read_bytes()).hexdigest()[:12]
    assert "005_specs.sql was edited" in caught.value.message
    assert old in caught.value.message
    assert new in caught.value.message
    assert caught.value.exit_code == 3
    with connect(target) as session:
        assert migrations.applied(session)[-1].version == 6
        with pytest.raises(EditedMigration):
            migrations.verify_unedited(session)


def test_a_failing_file_leaves_nothing_of_itself(database: DatabaseFactory, copied: Path) -> None:
    target = database("empty")
    broken = copied / "005_specs.sql"
    whole = broken.read_text()
    broken.write_text(whole.replace("COMMIT;", "SELECT 1 / 0;\nCOMMIT;"))
    with pytest.raises(MigrationFailed, match=r"005_specs.sql:\d+: division by zero") as caught:
        migrations.init(target, to=7)
    assert caught.value.exit_code == 5
    assert version(target) == 2
    with connect(target) as session:
        assert [row.version for row in migrations.applied(session)] == [1, 2, 3, 4]
    broken.write_text(whole)
    assert migrations.init(target, to=7).version_before == 4


def test_a_file_without_a_transaction_is_refused(database: DatabaseFactory, copied: Path) -> None:
    (copied / "001_base_tables.sql").write_text("CREATE SCHEMA mandate;\n")
    target = database("empty")
    with pytest.raises(MandateError, match="must hold one BEGIN"):
        migrations.init(target, to=1)
    assert version(target) == 0


def test_a_gap_in_the_numbers_is_refused(database: DatabaseFactory, copied: Path) -> None:
    (copied / "004_example_snapshot.sql").unlink()
    with pytest.raises(UsageError, match="001, 002, 003, 005"):
        migrations.init(database("empty"))


def test_a_field_database_is_adopted_and_nothing_below_applied(database: DatabaseFactory) -> None:
    target = database("v7")  # made by the files, recorded nowhere
    result = migrations.init(target, to=7)
    assert result.adopted is True
    assert result.applied == ()
    with connect(target) as session:
        (row,) = migrations.applied(session)
        assert (row.version, row.sha256) == (7, None)
        migrations.verify_unedited(session)
    assert migrations.init(target, to=7).adopted is False


def test_a_migration_done_by_hand_is_noticed(database: DatabaseFactory) -> None:
    target = database("v8")
    with connect(target) as session:
        migrations.record(session, 7, "007_scope_and_domain_on_verdicts.sql", None)
    result = migrations.init(target)
    assert result.adopted is True
    assert result.version_after == 8


def test_decisions_are_not_migrated_without_the_conductor(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(target) as session:
        session.execute(
            "INSERT INTO decision_events (decision_id, intent, stage, actor, target, timestamp)"
            " VALUES (gen_random_uuid(), 'pay', 'proposed', 'a', 't', now())"
        )
    with pytest.raises(NeedsPerson, match="holds decisions") as caught:
        migrations.init(target)
    assert "mandate run 008" in str(caught.value.hint)
    assert version(target) == 7


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (b"CREATE TABLE customers (id int)", "public.customers"),
        (b"CREATE SCHEMA mandate", "of no version"),
        (b"CREATE SCHEMA mandate CREATE TABLE decision_events (id int)", "of no version"),
        (b"CREATE SCHEMA mandate CREATE TABLE domains (domain text)", "of no version"),
    ],
)
def test_somebody_else_s_database_is_refused(database: DatabaseFactory, made: bytes, words: str) -> None:
    target = database("empty")
    with connect(target) as session:
        session.execute(made)
    with pytest.raises(NotMandate, match="left untouched") as caught:
        migrations.init(target)
    assert words in caught.value.message
    with connect(target) as session:
        assert session.value("SELECT to_regnamespace('mandate_conductor') IS NULL")
        with pytest.raises(NotMandate):
            migrations.require_version(session)


def test_an_empty_database_is_not_mandate_s_yet(database: DatabaseFactory) -> None:
    with connect(database("empty")) as session, pytest.raises(NotMandate, match="is empty"):
        migrations.require_version(session)


def test_a_half_made_schema_is_refused(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(target) as session:
        session.execute("ALTER TABLE verdict_events DROP COLUMN scope_id")
    with pytest.raises(NotMandate, match="unfinished version 5"):
        migrations.init(target)


def test_a_record_that_the_schema_contradicts_is_refused(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(target) as session:
        migrations.record(session, 8, "008_x.sql", None)
        with pytest.raises(NotMandate, match="says version 8, the schema is version 7"):
            migrations.init(target)
        migrations.forget(session, 8)
    assert migrations.init(target, to=7).version_after == 7


def test_concurrent_inits_take_turns(database: DatabaseFactory) -> None:
    target = database("empty")
    results: list[migrations.InitResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(migrations.init(target, to=7))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(result.applied) for result in results) == [0, 0, 7]


def test_a_running_migration_is_not_disturbed(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = database("empty")
    monkeypatch.setattr(migrations, "LOCK_WAIT_SECONDS", 0.1)
    with lock.held(target, "mandate-run-x"), pytest.raises(RunLocked, match="mandate-run-x holds"):
        migrations.init(target)


def test_servers_that_cannot_be_reached(postgres: EmbeddedServer, database: DatabaseFactory) -> None:
    away = Target.from_dsn("postgresql://postgres@localhost:1/mandate")
    with pytest.raises(DatabaseUnavailable, match="cannot reach PostgreSQL"):
        migrations.init(away)
    target = database("empty")
    nobody = Target({**target.parameters, "user": "nobody_here"})
    with pytest.raises((AuthenticationFailed, DatabaseUnavailable)):
        migrations.init(nobody)


def test_a_role_that_may_not_create_says_so(database: DatabaseFactory) -> None:
    target = database("empty")
    role = "r_" + target.database
    with connect(target) as session:
        session.execute(b"CREATE ROLE " + role.encode() + b" LOGIN")
    try:
        with pytest.raises(MandateError, match="permission denied"):
            migrations.init(Target({**target.parameters, "user": role}))
        assert version(target) == 0
    finally:
        with connect(target) as session:
            session.execute(b"DROP OWNED BY " + role.encode())
            session.execute(b"DROP ROLE " + role.encode())


def test_the_command_killed_half_way_goes_on_where_it_was(database: DatabaseFactory) -> None:
    target = database("empty")
    for wanted in (1, 3, 5):
        process = spawn("db", "init", "--to", "007", "--dsn", target.conninfo)
        with connect(target) as session:
            while process.poll() is None and len(migrations.applied(session)) < wanted:
                pass
        process.kill()
        process.communicate()
    done = mandate("db", "init", "--to", "007", "--dsn", target.conninfo)
    assert done.returncode == 0, done.stderr
    assert version(target) == 7
    with connect(target) as session:
        assert [row.version for row in migrations.applied(session)] == [1, 2, 3, 4, 5, 6, 7]
