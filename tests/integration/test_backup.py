"""The backup step: what it writes, what it proves, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.backup_work import DECISIONS, At, dropping_what_is_made, fill, work_on
from tests.commands import mandate
from tests.servers import DatabaseFactory
from tests.stepping import context

from mandate.errors import BackupFailed
from mandate.postgres import database as databases
from mandate.postgres import dump, programs
from mandate.postgres.connection import Target, connect, sql
from mandate.postgres.database import Mark
from mandate.postgres.embedded import EmbeddedServer
from mandate.rekey.fingerprint import Fingerprint
from mandate.runbook import backup, manifest, scratch
from mandate.runbook.scratch import Expected, Work
from mandate.runbook.steps import s20_backup


@pytest.fixture
def v7(database: DatabaseFactory) -> Iterator[Target]:
    target = database("v7")
    with dropping_what_is_made(target):
        fill(target)
        yield target


@pytest.mark.parametrize("format", ["custom", "directory"])
def test_the_step_proves_what_it_wrote(
    any_postgres: EmbeddedServer, database: DatabaseFactory, tmp_path: Path, format: str
) -> None:
    target = database("v7", server=any_postgres)
    with dropping_what_is_made(target):
        fill(target)
        outcome = s20_backup.STEP.run(context(target, tmp_path, {"backup": {"format": format}}))
        found = outcome.evidence
        assert re.fullmatch(r"mandate_backup_\d{8}_\d{6}\.sql", found["file"])
        assert found["schema_version"] == 7
        assert found["entries"] > 50
        rows = {each["table"]: each["rows"] for each in found["tables"]}
        assert rows["mandate.decision_events"] == rows["mandate.verdict_events"] == DECISIONS
        assert all(each["fingerprint"] == each["restored_fingerprint"] for each in found["tables"])
        check = ["sha256sum", "--check", "--strict", found["manifest"]]
        assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 0
        path = tmp_path / found["file"]
        assert backup.verify(path).sha256 == found["sha256"]
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        with connect(target.with_database(found["scratch_database"])) as session:
            assert session.value("SELECT count(*) FROM decision_events") == DECISIONS


def test_the_guides_own_restore_reads_it(v7: Target, database: DatabaseFactory, tmp_path: Path) -> None:
    taken = backup.take(work_on(v7, tmp_path), "custom")
    empty = database("empty")
    pg_restore = programs.find("pg_restore", 18)
    programs.run([pg_restore, "-d", empty.database, "--clean", "--if-exists", taken.path], empty)
    with connect(empty) as session:
        assert session.value("SELECT count(*) FROM mandate.verdict_events") == DECISIONS


def test_what_is_written_meanwhile_is_not_half_in_it(v7: Target, tmp_path: Path) -> None:
    with connect(v7) as writer:

        def write() -> None:
            writer.execute("INSERT INTO mandate.organizations (name) VALUES ('born during the dump')")
            writer.execute("SELECT nextval('mandate.counter')")

        writer.execute("CREATE SEQUENCE mandate.counter")
        reporter = At("dump", write)
        taken = backup.take(work_on(v7, tmp_path, reporter=reporter), "custom")
        assert reporter.acted
        assert writer.value("SELECT count(*) FROM mandate.organizations") == 2
    assert taken.copy.tables["mandate.organizations"].rows == 1


def test_everything_of_the_database_comes_through(v7: Target, tmp_path: Path) -> None:
    with connect(v7) as session:
        session.execute("SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex'))")
        session.execute("SELECT lo_put(lo_create(0), 100000, 'sparse')")
        session.execute('CREATE SCHEMA "Odd % name"')
        session.execute('CREATE TABLE "Odd % name"."T.""x" AS SELECT 1 AS "C %s"')
        session.execute("CREATE SEQUENCE public.numbers START 5")
        session.execute("SELECT nextval('public.numbers')")
        session.execute("CREATE TABLE public.checked (v varchar(9) CHECK (v IN ('a', 'b')))")
        name = sql.Identifier(v7.database)
        for statement in (
            "COMMENT ON DATABASE {} IS 'the record'",
            "ALTER DATABASE {} SET default_transaction_read_only = on",
            "ALTER DATABASE {} SET work_mem = '7MB'",
            "ALTER ROLE postgres IN DATABASE {} SET statement_timeout = '3s'",
            "REVOKE CONNECT ON DATABASE {} FROM PUBLIC",
            "GRANT CONNECT ON DATABASE {} TO pg_monitor WITH GRANT OPTION",
            "ALTER DATABASE {} CONNECTION LIMIT 50",
        ):
            session.execute(sql.SQL(statement).format(name))
    taken = backup.take(work_on(v7, tmp_path), "custom")
    with databases.maintenance(v7) as session:
        source, copy = (databases.properties(session, each) for each in (v7.database, taken.copy.name))
    for key in ("owner", "encoding", "collate", "ctype", "connection_limit", "grants", "settings"):
        assert copy[key] == source[key], key
    with connect(v7.with_database(taken.copy.name)) as session:
        assert session.value("SHOW search_path") == "mandate, public"
        assert session.value("SELECT last_value FROM public.numbers") == 5
        assert session.value("SELECT count(*) FROM pg_largeobject_metadata") == 2
    assert taken.copy.tables['Odd % name.T."x'].rows == 1


def test_a_newer_client_than_the_server_will_do(
    postgres16: EmbeddedServer, database: DatabaseFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 17 on pg_restore sets a parameter that 16 does not know, and counts that as an error."""
    target = database("v7", server=postgres16)
    newer = replace(dump.client(18), server_major=16)
    assert newer.major == 18
    monkeypatch.setattr(dump, "client", lambda _: newer)
    with dropping_what_is_made(target):
        taken = backup.take(work_on(target, tmp_path), "custom")
        assert backup.verify(taken.path).entries == taken.description.entries


def test_a_restore_that_differs_is_no_proof(v7: Target, tmp_path: Path) -> None:
    work = work_on(v7, tmp_path)
    taken = backup.take(work, "custom")
    known = taken.description
    tables = {**taken.copy.tables, "mandate.scopes": Fingerprint(6, "1", "1"), "mandate.gone": Fingerprint()}
    with pytest.raises(BackupFailed, match=r"mandate\.gone is missing; mandate\.scopes has 6 rows, but not"):
        scratch.restore(
            work,
            dump.client(18),
            taken.path,
            taken.copy.name,
            scratch.SCRATCH,
            Expected(tables, known.properties, known.database_bytes),
        )


def test_a_backup_of_a_wrong_database_is_refused(postgres: EmbeddedServer, tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match="does not exist"):
        backup.take(work_on(postgres.target("not_there"), tmp_path), "custom")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def proven(postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one small proven backup of an almost empty database."""
    place = tmp_path_factory.mktemp("proven")
    target = postgres.target("proven_source")
    with dropping_what_is_made(target), databases.maintenance(target) as session:
        session.execute("CREATE DATABASE proven_source")
        with connect(target) as source:
            source.execute("CREATE TABLE numbers AS SELECT i FROM generate_series(1, 5000) AS i")
        backup.take(work_on(target, place), "custom", manifest_name=manifest.NAME)
        databases.drop(session, target.database)
    return place


class TestVerify:
    @pytest.fixture
    def path(self, proven: Path, tmp_path: Path) -> Path:
        shutil.copytree(proven, tmp_path, dirs_exist_ok=True)
        return next(tmp_path.glob("*.sql"))

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
    def test_a_flipped_byte_is_found_wherever_it_is(self, path: Path, share: float) -> None:
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(BackupFailed, match=r"sha256 of mandate_backup_.* differs") as caught:
            backup.verify(path)
        assert caught.value.exit_code == 4

    @pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
    def test_a_truncated_file_is_found(self, path: Path, keep: float) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(BackupFailed, match="bytes, the proven one had"):
            backup.verify(path)

    def test_a_missing_file_and_a_missing_manifest_are_named(self, path: Path) -> None:
        with pytest.raises(BackupFailed, match="is gone"):
            backup.verify(path.with_name("nothing.sql"), path.with_name(manifest.NAME))
        path.with_name(manifest.NAME).unlink()
        with pytest.raises(BackupFailed, match="no manifest beside"):
            backup.verify(path)

    @pytest.mark.parametrize("text", ["", "hello\n", "\x00\xff", "00  x\n"])
    def test_a_manifest_that_is_none_is_refused(self, path: Path, text: str) -> None:
        path.with_name(manifest.NAME).write_text(text, "utf-8")
        with pytest.raises(BackupFailed, match="manifest"):
            backup.verify(path)

    def test_an_edited_description_is_found(self, path: Path) -> None:
        described = path.with_name(path.name + ".json")
        known = json.loads(described.read_text())
        known["tables"]["public.numbers"] = "1:1:1"
        described.write_text(json.dumps(known))
        with pytest.raises(BackupFailed, match=r"sha256 of .*\.json differs"):
            backup.verify(path)

    def test_it_holds_after_the_move_to_the_archive_and_through_a_link(
        self, path: Path, tmp_path: Path
    ) -> None:
        moved = backup.archive(path, path.with_name(manifest.NAME), tmp_path / "backups")
        link = tmp_path / "latest_mandate_backup.sql"
        link.symlink_to(moved)
        assert backup.verify(link).file == path.name
        assert sorted(file.suffix for file in moved.parent.iterdir()) == [".json", ".sha256", ".sql"]
        assert not path.exists()

    def test_the_archive_is_never_written_over(self, path: Path, tmp_path: Path) -> None:
        place = tmp_path / "backups"
        place.mkdir()
        (place / path.name).write_text("older")
        with pytest.raises(BackupFailed, match="is there already"):
            backup.archive(path, path.with_name(manifest.NAME), place)
        assert (place / path.name).read_text() == "older"
        assert path.exists()


def test_a_directory_archive_with_a_changed_file_is_found(v7: Target, tmp_path: Path) -> None:
    path = backup.take(work_on(v7, tmp_path), "directory").path
    (path / "extra.dat").write_bytes(b"")
    with pytest.raises(BackupFailed, match=r"extra\.dat differs"):
        backup.verify(path)
    (path / "extra.dat").unlink()
    victim = max(path.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    with pytest.raises(BackupFailed, match=re.escape(f"{path.name}/{victim.name} differs")):
        backup.verify(path)


class TestLeftovers:
    def make(self, work: Work, name: str, mark: Mark) -> str:
        with work.maintenance() as session:
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            databases.set_mark(session, name, mark)
        return name

    def swept(self, work: Work) -> list[str]:
        with work.maintenance() as session:
            return scratch.sweep(session, work)

    def test_only_what_a_dead_run_made_of_this_database_is_dropped(self, v7: Target, tmp_path: Path) -> None:
        work = work_on(v7, tmp_path)
        mine = self.make(work, scratch.name_for("dead"), Mark(scratch.SCRATCH, "dead", v7.database))
        rehearsed = self.make(work, f"{mine}_restored_dead", Mark(scratch.RESTORED, "dead", mine))
        self.make(work, "of_another", Mark(scratch.SCRATCH, "dead2", "another_database"))
        self.make(work, "the_past", Mark(scratch.BEFORE_ROLLBACK, "dead", v7.database))
        self.make(work, "alone", Mark(scratch.SCRATCH, f"{scratch.STANDALONE}1", v7.database))
        assert sorted(self.swept(work)) == sorted([mine, rehearsed])
        with work.maintenance() as session:
            assert {"of_another", "the_past", "alone"} <= databases.marks(session).keys()

    def test_what_is_in_use_or_not_ours_stays(self, v7: Target, tmp_path: Path) -> None:
        work = work_on(v7, tmp_path)
        used = self.make(work, scratch.name_for("used"), Mark(scratch.SCRATCH, "used", v7.database))
        foreign = self.make(work, scratch.name_for("x"), Mark(scratch.SCRATCH, "x", v7.database))
        with work.maintenance() as session:
            databases.set_comment(session, foreign, "somebody's own")
        with connect(v7.with_database(used)):
            assert self.swept(work) == []
        assert self.swept(work) == [used]
        with work.maintenance() as session:
            databases.drop(session, foreign)

    def test_a_backup_alone_leaves_that_of_its_live_neighbour(self, v7: Target, tmp_path: Path) -> None:
        work = work_on(v7, tmp_path, run_id=f"{scratch.STANDALONE}2")
        other = f"{scratch.STANDALONE}1"
        name = self.make(work, scratch.name_for(other), Mark(scratch.SCRATCH, other, v7.database))
        with work.maintenance() as neighbour:
            assert scratch.try_claim(neighbour, name)
            assert self.swept(work) == []
        assert self.swept(work) == [name]

    def test_a_database_that_happens_to_have_the_name_is_not_touched(
        self, v7: Target, tmp_path: Path
    ) -> None:
        work = work_on(v7, tmp_path)
        name = scratch.name_for(work.run_id)
        with work.maintenance() as session:
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            try:
                with pytest.raises(BackupFailed, match="this run did not make it"):
                    backup.take(work, "custom")
                assert databases.exists(session, name)
            finally:
                databases.drop(session, name)
        assert list(tmp_path.iterdir()) == []


def test_the_command_alone(v7: Target, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "place"
    done = mandate("backup", "--dsn", v7.conninfo, "--output", output, "--jobs", "1", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "mandate.backup/1"
    assert backup.verify(Path(found["file"])).sha256 == found["sha256"]
    with databases.maintenance(v7) as session:
        assert databases.marks(session) == {}
    text = mandate("backup", "--dsn", v7.conninfo, "--output", output)
    assert text.returncode == 0
    assert max(map(len, text.stdout.replace(str(output), "").splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--jobs", "0"], 2, "--jobs"),
        (["--output", "/dev/null/x"], 4, "cannot be made"),
        (["--dsn", "nonsense"], 2, "not a PostgreSQL connection string"),
    ],
)
def test_bad_arguments(v7: Target, arguments: list[str], code: int, message: str) -> None:
    dsn = [] if "--dsn" in arguments else ["--dsn", v7.conninfo]
    done = mandate("backup", *dsn, *arguments)
    assert done.returncode == code
    assert message in done.stderr


def test_a_database_that_is_not_mandates_is_refused(database: DatabaseFactory, tmp_path: Path) -> None:
    done = mandate("backup", "--dsn", database("empty").conninfo, "--output", tmp_path)
    assert done.returncode == 3
    assert list(tmp_path.iterdir()) == []
