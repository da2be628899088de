"""The project around the code: locks, set-up, licence, and what must never be in the tree."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text("utf-8")
    pins: dict[str, str] = {}
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", text):
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry):
            assert "--hash=sha256:" in entry, f"{match[1]} has no hash in {name}"
            pins[canonicalize_name(match[1])] = match[2]
    return pins


def _requirements(*extras: str) -> list[Requirement]:
    listed = list(PROJECT["dependencies"])
    for extra in extras:
        listed += PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in listed]


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ["build"]), ("requirements-dev.lock", ["build", "dev"])]
)
def test_lock_satisfies_what_the_project_asks_for(lock: str, extras: list[str]) -> None:
    pins = _pins(lock)
    for requirement in _requirements(*extras):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not in {lock}: run `make lock`"
        assert requirement.specifier.contains(pinned), f"{requirement} against {pinned} in {lock}"


def test_development_lock_holds_the_same_versions() -> None:
    running, development = _pins("requirements.lock"), _pins("requirements-dev.lock")
    assert {name: development.get(name) for name in running} == running


def test_what_is_installed_is_what_is_locked() -> None:
    pins = _pins("requirements-dev.lock")
    for requirement in _requirements("dev"):
        assert version(requirement.name) == pins[canonicalize_name(requirement.name)]


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_tree_names_no_registry_and_no_machine() -> None:
    # Written in pieces, so that this file does not find itself.
    forbidden = ["pypi" + ".org", "python" + "hosted", "npmjs" + ".", "deb.debian" + ".org", "/wor" + "k/"]
    pattern = re.compile("|".join(map(re.escape, forbidden)).encode())
    found = {
        str(path.relative_to(ROOT)): match[0].decode()
        for path in _tracked()
        if (match := pattern.search(path.read_bytes()))
    }
    assert found == {}


def test_licence_is_complete_and_declared() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_changelog_keeps_a_changelog() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(released)


def _make(*arguments: str) -> str:
    made = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return made.stdout


def test_make_alone_lists_the_targets() -> None:
    listed = set(re.findall(r"^  make (\S+)", _make(), re.MULTILINE))
    assert listed == set(re.findall(r"^  make (\S+)", _make("help"), re.MULTILINE))
    assert {"demo", "test", "test-fast", "lint", "bench", "lock", "clean"} <= listed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "bench/README.md", ".ci/run"])
def test_named_make_targets_exist(page: str) -> None:
    listed = set(re.findall(r"^  make (\S+)", _make("help"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE))
    assert named
    assert named <= listed


def test_ci_runs_what_the_readme_names_and_tests_last() -> None:
    script = (ROOT / ".ci/run").read_text("utf-8")
    targets = re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)
    assert targets[-1] == "test"
    assert {"lint", "demo"} <= set(targets)
    assert os.access(ROOT / ".ci/run", os.X_OK)


def _fake_python(directory: Path, body: str) -> str:
    path = directory / "python-of-the-test"
    path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    path.chmod(0o755)
    return str(path)


def _set_up(directory: Path, python: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": python, "UV": "no-such-uv"}
    command = ["sh", str(ROOT / "scripts/venv"), "requirements.lock"]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


def test_set_up_says_that_python_is_too_old(tmp_path: Path) -> None:
    result = _set_up(tmp_path, _fake_python(tmp_path, "exit 1"))
    assert result.returncode == 1
    assert "No Python 3.11 or newer" in result.stderr
    assert "PYTHON=" in result.stderr


def test_set_up_says_that_venv_is_missing(tmp_path: Path) -> None:
    python = _fake_python(tmp_path, 'case "$2" in *ensurepip*) exit 1 ;; esac')
    result = _set_up(tmp_path, python)
    assert result.returncode == 1
    assert "apt-get install python3-venv" in result.stderr
    assert not (tmp_path / ".venv").exists()
