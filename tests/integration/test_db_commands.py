"""The `mandate db` commands and `mandate doctor` as a shell sees them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.commands import MANDATE, clean_environment, mandate
from tests.servers import DatabaseFactory, temporary_directory

from mandate.postgres import embedded
from mandate.postgres.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A running server whose path needs quoting in a shell."""
    with temporary_directory() as place:
        directory = place / "it's; a dir"
        done = mandate("db", "start", "--data-dir", directory, "--port", "0")
        assert done.returncode == 0, done.stderr
        try:
            yield directory
        finally:
            embedded.stop(directory, mode="immediate")


def shell(script: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in plain sh with `mandate` on PATH."""
    path = f"{MANDATE.parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-eu", "-c", script],
        env=clean_environment({"PATH": path, **(env or {})}),
        capture_output=True,
        text=True,
        check=False,
    )


def answer(*arguments: str | Path, code: int = 0, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = mandate(*arguments, "--format", "json", env=env)
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_env_makes_the_guide_s_commands_work(data_dir: Path) -> None:
    done = shell(
        'eval "$(mandate db env --data-dir "$D")"\n'
        "psql -h localhost -U postgres mandate -At -c 'SELECT current_user'\n"
        "psql --version; pg_dump --version; pg_restore --version\n"
        "mandate db psql -- -At -c 'SELECT current_database()'\n",
        {
            "D": str(data_dir),
            "PGSSLMODE": "require",
            "PGDATABASE": "elsewhere",
            "DATABASE_URL": "postgres://x",
        },
    )
    assert done.returncode == 0, done.stderr
    user, psql, dump, restore, database = done.stdout.splitlines()
    assert (user, database) == ("postgres", "mandate")
    assert all(") 18." in line for line in (psql, dump, restore))


def test_env_twice_does_not_grow_the_path(data_dir: Path) -> None:
    done = shell(
        'eval "$(mandate db env --data-dir "$D")"; once=$PATH\n'
        'eval "$(mandate db env)"; [ "$PATH" = "$once" ]\n',
        {"D": str(data_dir)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("format", ["text", "json"])
def test_env_without_a_server_prints_nothing_to_evaluate(open_directory: Path, format: str) -> None:
    done = mandate("db", "env", "--data-dir", open_directory / "none", "--format", format)
    assert done.returncode == 9
    assert "is not running" in done.stderr
    assert "export" not in done.stdout
    assert format == "json" or done.stdout == ""


def test_status_as_data(data_dir: Path, open_directory: Path) -> None:
    running = answer("db", "status", "--data-dir", data_dir)
    assert running["schema"] == "mandate.db-status/1"
    assert running["running"] is True
    assert running["version"] == 18
    assert running["data_dir"] == str(data_dir)
    absent = answer("db", "status", "--data-dir", open_directory / "none")
    assert (absent["running"], absent["state"], absent["port"]) == (False, "not-initialised", None)
    assert not (open_directory / "none").exists()


def test_start_again_is_the_same_server(data_dir: Path) -> None:
    first = answer("db", "status", "--data-dir", data_dir)
    again = answer("db", "start", "--data-dir", data_dir)
    assert (again["pid"], again["port"]) == (first["pid"], first["port"])


def test_init_as_data_and_as_text(data_dir: Path) -> None:
    first = answer("db", "init", "--to", "003", "--data-dir", data_dir)
    assert (first["version_before"], first["version"]) == (0, 3)
    assert [item["file"][:3] for item in first["applied"]] == ["001", "002", "003"]
    text = mandate("db", "init", "--to", "7", "--data-dir", data_dir).stdout
    assert "005_specs.sql" in text
    assert "The database is at version 7 (was 3)." in text
    assert all(len(line) <= 80 for line in text.splitlines())
    again = mandate("db", "init", "--to", "7", "--data-dir", data_dir).stdout
    assert "at version 7 already; nothing to do" in again
    assert "version 7" in mandate("db", "status", "--data-dir", data_dir).stdout
    down = mandate("db", "init", "--to", "001", "--data-dir", data_dir)
    assert down.returncode == 2
    assert "never goes down" in down.stderr


def test_the_database_named_by_dsn_wins(database: DatabaseFactory, data_dir: Path) -> None:
    target = database("empty")
    made = answer("db", "init", "--to", "1", "--data-dir", data_dir, "--dsn", target.conninfo)
    assert made["database"] == target.database


def test_psql_passes_arguments_input_and_exit_status_through(data_dir: Path) -> None:
    done = mandate("db", "psql", "--data-dir", data_dir, "-At", "-c", "SELECT 'a b' || chr(10) || '$x'")
    assert done.stdout == "a b\n$x\n"
    failed = mandate("db", "psql", "--data-dir", data_dir, "--", "-v", "ON_ERROR_STOP=1", "-c", "SELECT 1/0")
    assert failed.returncode == 1
    assert "division by zero" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("start", "--version", "17"), 2, "embedded.version"),
        (("start", "--port", "70000"), 2, "embedded.port"),
        (("start", "--port", "x"), 2, "--port"),
        (("stop", "--mode", "gently"), 2, "--mode"),
        (("init", "--to", "009x"), 2, "is not a version"),
        (("psql",), 9, "is not running"),
        (("init",), 9, "is not running"),
    ],
)
def test_bad_input(open_directory: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = mandate("db", arguments[0], "--data-dir", open_directory / "none", *arguments[1:])
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_not_ours(open_directory: Path) -> None:
    (open_directory / "x").touch()
    done = mandate("db", "start", "--data-dir", open_directory)
    assert done.returncode == 9
    assert "not a data directory of Mandate" in done.stderr
    assert done.stdout == ""
    assert [entry.name for entry in open_directory.iterdir()] == ["x"]


def test_from_a_directory_that_was_deleted(open_directory: Path) -> None:
    done = shell(
        'mkdir "$D/gone"; cd "$D/gone"; rmdir "$D/gone"; mandate db status', {"D": str(open_directory)}
    )
    assert done.returncode == 2
    assert "was deleted" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_any_database(open_directory: Path) -> None:
    env = {"MANDATE_EMBEDDED__DATA_DIR": str(open_directory / "none")}
    done = mandate("db", "init", env=env)
    assert done.returncode == 2
    assert "mandate db start" in done.stderr


def test_doctor_says_where_each_setting_comes_from(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mandate.toml").write_text("[serve]\nport = 3333\n")
    done = mandate(
        "doctor", "--data-dir", data_dir, "--format", "json",
        cwd=tmp_path, env={"MANDATE_BACKUP__FORMAT": "directory"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    origins = {row["key"]: (row["value"], row["origin"].split(" ")[0]) for row in found["settings"]}
    assert origins["serve.port"] == ("3333", "file")
    assert origins["backup.format"] == ("directory", "environment")
    assert origins["embedded.data_dir"] == (str(data_dir), "flag")
    assert origins["smoke.timeout_seconds"] == ("10.0", "default")
    subjects = {finding["subject"]: finding for finding in found["findings"]}
    assert subjects["server"]["text"].startswith("PostgreSQL 18")
    assert subjects["pg_restore"]["level"] == "ok"


def test_doctor_fits_a_terminal_and_shows_no_secret(tmp_path: Path, open_directory: Path) -> None:
    (tmp_path / "mandate.toml").write_text(
        '[services]\nkind = "process"\n[[services.process]]\nname = "serve"\ncommand = ["mandate", "serve"]\n'
        'pid_file = "x.pid"\nenvironment = {DATABASE_URL = "postgresql://u:hunter2@h/d"}\n'
        '[notify]\nurls = ["mailto://u:hunter2@example.com"]\n'
    )
    env = {"MANDATE_EMBEDDED__DATA_DIR": str(open_directory / "none")}
    dsn = "postgresql://u:hunter2@localhost:1/d"
    done = mandate("doctor", "--dsn", dsn, cwd=tmp_path, env=env)
    assert done.returncode == 9
    assert "problems: database" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if len(line) > 80 and "/" not in line] == []
    asjson = mandate("doctor", "--dsn", dsn, "--format", "json", cwd=tmp_path, env=env)
    assert "hunter2" not in asjson.stdout


def test_doctor_names_the_service_manager_that_is_not_there(open_directory: Path) -> None:
    env = {
        "MANDATE_SERVICES__KIND": "systemd",
        "MANDATE_EMBEDDED__DATA_DIR": str(open_directory / "none"),
        "PATH": str(open_directory),
    }
    done = mandate("doctor", env=env)
    assert done.returncode == 9
    assert "no systemctl on PATH" in done.stdout


def test_doctor_reports_an_edited_migration(
    database: DatabaseFactory, tmp_path: Path, postgres: EmbeddedServer
) -> None:
    target = database("empty")
    assert mandate("db", "init", "--to", "1", "--dsn", target.conninfo).returncode == 0
    source = Path(__file__).parents[2] / "migrations"
    shutil.copytree(source, tmp_path / "migrations")
    with (tmp_path / "migrations" / "001_base_tables.sql").open("a") as file:
        file.write("-- edited\n")
    env = {"MANDATE_MIGRATIONS_DIR": str(tmp_path / "migrations")}
    done = mandate("doctor", "--dsn", target.conninfo, env=env)
    assert done.returncode == 9
    assert "problems: schema" in done.stdout
