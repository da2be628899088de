"""What `pip install .` gives: the command, its migrations and its server, from any directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.pages import ROOT, free_port

import mandate

pytestmark = pytest.mark.slow


def _run(command: list[str], directory: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "MANDATE_", "PYTHON"))
    }
    ran = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def _installer(python: Path) -> list[str]:
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", str(python)]
    return [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """A directory outside the checkout, which the user that PostgreSQL runs as may enter."""
    directory = Path(tempfile.mkdtemp(prefix="mandate-wheel-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def installed(elsewhere: Path) -> Path:
    """bin directory of a clean environment with nothing but the wheel and the pinned dependencies."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(elsewhere)], ROOT)
    (wheel,) = elsewhere.glob("mandate-*.whl")
    venv.create(elsewhere / "venv", with_pip=False, symlinks=True)
    install = _installer(elsewhere / "venv/bin/python")
    _run([*install, "--require-hashes", "-r", str(ROOT / "requirements.lock")], elsewhere)
    _run([*install, "--no-deps", str(wheel)], elsewhere)
    return elsewhere / "venv/bin"


def test_command_says_its_version(installed: Path, elsewhere: Path) -> None:
    assert _run([str(installed / "mandate"), "--version"], elsewhere) == f"mandate {mandate.__version__}\n"


def test_wheel_carries_migrations_and_deployment_files(installed: Path) -> None:
    package = next(installed.parent.glob("lib/python*/site-packages/mandate"))
    for folder in ("migrations", "deploy"):
        carried = {str(path.relative_to(package)) for path in (package / folder).rglob("*") if path.is_file()}
        listed = subprocess.run(
            ["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert set(listed.stdout.split()) <= carried
        assert carried


def test_metadata_asks_for_what_the_lock_pins(installed: Path, elsewhere: Path) -> None:
    """Everything that the wheel declares is installed in a version that it accepts."""
    program = (
        "from importlib.metadata import requires, version\n"
        "from packaging.requirements import Requirement\n"
        "wanted = [Requirement(text) for text in requires('mandate')]\n"
        "wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({'extra': ''})]\n"
        "assert len(wanted) > 10\n"
        "assert all(one.specifier.contains(version(one.name)) for one in wanted)\n"
    )
    _run([str(installed / "python"), "-c", program], elsewhere)


def test_migrations_are_applied_from_the_wheel(installed: Path, elsewhere: Path) -> None:
    data = ["--data-dir", str(elsewhere / "data")]
    command = str(installed / "mandate")
    _run([command, "db", "start", *data, "--port", str(free_port())], elsewhere)
    try:
        status = json.loads(_run([command, "db", "status", *data, "--format", "json"], elsewhere))
        assert status["schema"].startswith("mandate.")
        _run([command, "db", "init", "--to", "007", *data], elsewhere)
        query = ["-At", "-c", "SELECT count(*) FROM mandate.scopes"]
        assert int(_run([command, "db", "psql", *data, "--", *query], elsewhere)) >= 0
    finally:
        _run([command, "db", "stop", *data], elsewhere)
