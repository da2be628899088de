"""deploy/: what the guide's own `docker-compose down` and `systemctl stop mandate-*` act on."""

from __future__ import annotations

import configparser
import importlib
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from tests.commands import mandate

from mandate.settings import ServicesSettings

PROJECT = Path(__file__).parent.parent.parent
DEPLOY = PROJECT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
COMPOSE_FILES = sorted(DEPLOY.glob("docker-compose*.yml"))


def services(file: str) -> dict[str, Any]:
    """The services of a compose file. PyYAML comes with apprise and has no types."""
    found: dict[str, Any] = importlib.import_module("yaml").safe_load((DEPLOY / file).read_text())["services"]
    return found


@pytest.fixture(scope="module")
def serve_options() -> set[str]:
    """The options that `mandate serve` has."""
    return set(re.findall(r"--[a-z-]+", mandate("serve", "--help").stdout))


def seconds(text: str) -> int:
    """15s or 20 -> seconds."""
    return int(text.removesuffix("s"))


def assert_is_serve_on_loopback(arguments: Sequence[str], known: set[str]) -> None:
    assert arguments[0] == "serve"
    assert {one for one in arguments if one.startswith("--")} <= known
    values = dict(itertools.pairwise(arguments))
    assert (values["--host"], values["--port"]) == ("127.0.0.1", "3000")
    assert values["--log-dir"] == "/var/log/mandate", "where the guide's grep looks"


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units(unit: Path, serve_options: set[str], tmp_path: Path) -> None:
    defaults = ServicesSettings()
    assert any(fnmatchcase(unit.name, pattern) for pattern in defaults.units)
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(unit)
    service = parser["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name == "mandate"
    assert_is_serve_on_loopback(arguments, serve_options)
    assert service["User"] not in ("", "root")
    assert seconds(service["TimeoutStopSec"]) < defaults.stop_timeout_seconds
    assert parser["Install"]["WantedBy"], "systemctl start mandate-* finds only units that something wants"
    if analyze := shutil.which("systemd-analyze"):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace(program, f'"{sys.executable}"'))
        done = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_service_in_a_container(serve_options: set[str]) -> None:
    found = services("docker-compose.yml")
    assert list(found) == ["mandate"], "the guide's `docker-compose down` must not take the database away"
    service = found["mandate"]
    assert_is_serve_on_loopback(service["command"], serve_options)
    assert service["network_mode"] == "host"
    assert "/readyz" in " ".join(service["healthcheck"]["test"])
    assert seconds(service["stop_grace_period"]) < ServicesSettings().stop_timeout_seconds
    assert [one["target"] for one in service["volumes"]] == ["/var/log/mandate"]


def test_the_database_in_a_container_is_for_this_machine_only() -> None:
    (database,) = services("docker-compose.database.yml").values()
    assert database["ports"] == ["127.0.0.1:5432:5432"]
    assert database["environment"]["POSTGRES_DB"] == "mandate"


@pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda path: path.name)
def test_down_needs_no_variable(file: Path) -> None:
    """`${NAME:?...}` would make `docker-compose down` fail in a shell that does not have the password."""
    assert not re.search(r"\$\{\w+:?\?", file.read_text())
    for program in (["docker", "compose"], ["docker-compose"]):
        probe = [*program, "version"]
        if (
            shutil.which(program[0])
            and subprocess.run(probe, capture_output=True, check=False).returncode == 0
        ):
            argv = [*program, "-f", str(file), "config", "-q"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def test_the_healthcheck_fails_when_nothing_is_ready() -> None:
    _, _, *arguments = services("docker-compose.yml")["mandate"]["healthcheck"]["test"]
    script = arguments[-1].replace(":3000/", ":1/")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode != 0


def test_the_image_is_built_from_files_that_are_there() -> None:
    service = services("docker-compose.yml")["mandate"]
    dockerfile = PROJECT / service["build"]["dockerfile"]
    assert (DEPLOY / service["build"]["context"]).resolve() == PROJECT.resolve()
    sources = [
        source
        for line in dockerfile.read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    allowed = set((DEPLOY / "Dockerfile.dockerignore").read_text().splitlines())
    assert sources
    for source in sources:
        assert (PROJECT / source).exists()
        assert f"!{source.removeprefix('./')}" in allowed
