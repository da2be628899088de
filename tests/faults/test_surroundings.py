"""What a run finds around it: a database's settings, missing rights, full disks: told, or overcome."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests import conducting
from tests.conducting import named_rows, seeded, version
from tests.servers import DatabaseFactory

from mandate.postgres.connection import Target, connect, sql
from mandate.runbook import migrations

pytestmark = pytest.mark.slow


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
