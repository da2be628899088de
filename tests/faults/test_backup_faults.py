"""A backup that cannot be finished: one clear message, exit code 4, and nothing left that looks like one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.backup_work import dropping_what_is_made, fill, when_child_runs, work_on
from tests.commands import MANDATE, clean_environment
from tests.servers import DatabaseFactory, running_server

from mandate.errors import BackupFailed
from mandate.postgres import database as databases
from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect, sql
from mandate.runbook import backup, manifest, scratch, space
from mandate.runbook.scratch import Work


@pytest.fixture
def target(database: DatabaseFactory) -> Iterator[Target]:
    made = database("v7")
    with dropping_what_is_made(made):
        fill(made)
        yield made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def add_noise(target: Target, mebibytes: int) -> None:
    """Data that no compression makes smaller: its archive is larger than the estimate."""
    with connect(target) as session:
        session.execute(
            "CREATE TABLE public.noise AS SELECT string_agg(gen_random_uuid()::text, '') AS t"
            " FROM generate_series(1, %s) AS i GROUP BY i %% 1000",
            (mebibytes * 1024 * 1024 // 36,),
        )


def left_behind(work: Work) -> list[str]:
    with work.maintenance() as session:
        return sorted([*(file.name for file in work.directory.iterdir()), *databases.marks(session)])


def test_too_little_disk_is_seen_before_anything_is_written(target: Target, small_disk: Path) -> None:
    add_noise(target, 6)
    work = work_on(target, small_disk)
    with pytest.raises(
        BackupFailed, match=r"not enough disk for the backup: about \d MiB needed at .*small, 2 MiB free"
    ):
        backup.take(work, "custom")
    assert left_behind(work) == []


@pytest.mark.parametrize("format", ["custom", "directory"])
def test_a_disk_that_fills_up_meanwhile(
    target: Target, small_disk: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    add_noise(target, 6)
    monkeypatch.setattr(space, "require", lambda _: None)  # somebody else took the space after the look
    work = work_on(target, small_disk)
    with pytest.raises(BackupFailed, match=r"disk full while the backup was written to .*small") as caught:
        backup.take(work, "custom" if format == "custom" else "directory")
    assert caught.value.exit_code == 4
    assert "free disk space" in str(caught.value.hint)
    assert left_behind(work) == []


def test_a_server_whose_disk_is_too_small_for_the_scratch_database(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    monkeypatch.setattr(space, "server_directory", lambda *_: small_disk)
    work = work_on(target, tmp_path)
    with pytest.raises(BackupFailed, match="for the scratch database that proves it: about"):
        backup.take(work, "custom")
    assert not list(tmp_path.glob("mandate_backup*"))


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
def test_a_killed_program(target: Target, tmp_path: Path, program: str) -> None:
    work = work_on(target, tmp_path)
    with (
        pytest.raises(BackupFailed, match=f"{program} was killed by signal 9"),
        when_child_runs(program, psutil.Process.kill),
    ):
        backup.take(work, "custom")
    assert left_behind(work) == []


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    with running_server(18) as server:
        target = server.target("record")
        with connect(server.target()) as session:
            session.execute("CREATE DATABASE record")
        with connect(target) as session:
            session.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i")
        work = work_on(target, tmp_path)
        with (
            pytest.raises(BackupFailed) as caught,
            when_child_runs("pg_dump", lambda _: stop(server.data_dir)),
        ):
            backup.take(work, "custom")
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def stop(data_dir: Path) -> None:
    embedded.stop(data_dir, mode="immediate")


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_killed_command_leaves_nothing_that_looks_finished(
    target: Target, tmp_path: Path, program: str, number: int, code: int
) -> None:
    command = [MANDATE, "backup", "--dsn", target.conninfo, "--output", tmp_path]
    process = subprocess.Popen(
        list(map(str, command)), env=clean_environment(), stderr=subprocess.PIPE, text=True
    )
    with when_child_runs(program, lambda _: os.kill(process.pid, number), process.pid):
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert not list(tmp_path.glob("*.sql"))
    work = work_on(target, tmp_path, run_id=f"{scratch.STANDALONE}next")
    if number != signal.SIGKILL:
        assert left_behind(work) == []
    taken = backup.take(work, "custom")
    with work.maintenance() as session:
        assert list(databases.marks(session)) == [taken.copy.name]


def test_a_half_written_archive_of_a_dead_attempt_goes_with_the_next(target: Target, tmp_path: Path) -> None:
    (tmp_path / f"mandate_backup_20250101_000000.sql{backup.PARTIAL}").write_bytes(b"half")
    directory = tmp_path / f"mandate_backup_20250101_000001.sql{backup.PARTIAL}"
    directory.mkdir()
    (directory / "toc.dat").write_bytes(b"half")
    taken = backup.take(work_on(target, tmp_path), "custom", manifest_name=manifest.NAME)
    expected = {taken.path.name, f"{taken.path.name}.json", manifest.NAME}
    assert {file.name for file in tmp_path.iterdir()} == expected


def test_passwords_stay_out_of_the_arguments_of_programs(target: Target, tmp_path: Path) -> None:
    secret = "correct-horse"
    with_password = Target({**target.parameters, "password": secret})
    seen: list[str] = []
    for program in ("pg_dump", "pg_restore"):
        with when_child_runs(program, lambda child: seen.extend(child.cmdline())):
            backup.take(work_on(with_password, tmp_path, run_id=program), "custom")
        next(tmp_path.glob("*.sql")).unlink()
    assert len(seen) > 8
    assert secret not in " ".join(seen)


def test_a_server_that_refuses_the_restore(target: Target, tmp_path: Path) -> None:
    """The scratch database is cut off while it is being filled."""
    work = work_on(target, tmp_path)
    name = scratch.name_for(work.run_id)

    def cut(_: psutil.Process) -> None:
        with databases.maintenance(target) as session:
            session.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))

    with (
        pytest.raises(BackupFailed, match="not currently accepting connections"),
        when_child_runs("pg_restore", cut),
    ):
        backup.take(work, "custom")
    assert left_behind(work) == []
