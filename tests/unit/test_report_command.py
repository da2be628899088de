"""`mandate report`: which run, where the file is, exit codes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests import commands
from tests import report_records as records
from typer.testing import CliRunner, Result

from mandate.cli.app import build
from mandate.runbook import evidence, signing
from mandate.runbook.record import RunRecord
from mandate.runbook.report import html


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with three runs: complete, a newer failed one, and one of another migration."""
    older = records.complete()
    newer = replace(records.failed_check(), run_id="20261123T010000-aaaa", started_at=_later(older, 3))
    other = replace(records.complete(), run_id="x", migration="009", started_at=_later(older, 5))
    for record in (older, newer, other):
        _write(tmp_path / "runs" / f"{record.migration}-{record.run_id}", record)
    return tmp_path


def _later(record: RunRecord, hours: int) -> datetime:
    return record.started_at + timedelta(hours=hours)


def _write(directory: Path, record: RunRecord) -> None:
    directory.mkdir(parents=True)
    content = json.dumps(replace(record, directory=str(directory)).as_dict(), default=str)
    (directory / "run.json").write_text(content, "utf-8")
    (directory / "check.txt").write_text("=== CHECK 1 ===\n")


def _home(place: Path) -> dict[str, str]:
    return {"XDG_DATA_HOME": str(place / "data"), "XDG_CONFIG_HOME": str(place / "config")}


def mandate(*arguments: str | Path, cwd: Path, env: dict[str, str]) -> Result:
    """The command in this process; test_in_a_process_of_its_own shows that it is no different."""
    here = Path.cwd()
    os.chdir(cwd)
    try:
        return CliRunner(env=env).invoke(build(), [*map(str, arguments)])
    finally:
        os.chdir(here)


def _complete(place: Path) -> Path:
    return place / "runs" / "008-20261122T220004-7f3a"


def test_the_newest_run_of_the_migration_is_meant(place: Path) -> None:
    done = mandate("report", "008", cwd=place, env=_home(place))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("MIGRATION 008 STOPPED: PRE-MIGRATION CHECKS FAILED\n")
    assert "--run 20261123T010000-aaaa --format html" in done.stdout
    assert max(map(len, done.stdout.split("The same as a page")[0].splitlines())) <= 80


def test_a_run_is_chosen_by_its_id_and_every_form_is_what_it_says(place: Path) -> None:
    chosen = ("report", "008", "--run", "20261122T220004-7f3a")
    document = mandate(*chosen, "--format", "json", cwd=place, env=_home(place))
    assert json.loads(document.stdout)["status"] == "complete"
    cases = mandate(*chosen, "--format", "junit", cwd=place, env=_home(place))
    assert ElementTree.fromstring(cases.stdout.encode()).get("failures") == "0"
    page = mandate(*chosen, "--format", "html", cwd=place, env=_home(place))
    written = Path(page.stdout.strip())
    assert written == _complete(place) / "report.html"
    assert "Migration 008 is complete" in written.read_text("utf-8")
    text = mandate(*chosen, cwd=place, env=_home(place))
    assert f"The same as a page: {written}" in text.stdout


def test_output_goes_where_it_is_sent(place: Path) -> None:
    done = mandate("report", "--format", "json", "-o", "out.json", cwd=place, env=_home(place))
    assert done.stdout.strip() == str(place / "out.json")
    assert json.loads((place / "out.json").read_text())["schema"] == "mandate.report/1"
    page = mandate("report", "--format", "html", "--output", "-", cwd=place, env=_home(place))
    assert page.stdout.startswith("<!doctype html>")
    lost = mandate("report", "--output", "missing/x.txt", cwd=place, env=_home(place))
    assert lost.exit_code == 2
    assert "cannot be written" in lost.stderr


def test_a_sealed_directory_is_left_alone(place: Path) -> None:
    directory = _complete(place)
    key = place / "key.pem"
    _seal(directory, key)
    command = ("report", "--run", "20261122T220004-7f3a", "--format", "html")
    done = mandate(*command, cwd=place, env=_home(place))
    assert Path(done.stdout.strip()).parent == place
    assert evidence.verify_bundle(directory) == []


def _seal(directory: Path, key: Path) -> None:
    private = Ed25519PrivateKey.generate()
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    evidence.bundle(directory, records.complete(), key)


def test_a_sealed_page_is_the_page(place: Path) -> None:
    """What the run itself wrote is found again, not written again."""
    directory = _complete(place)
    record = replace(records.complete(), directory=str(directory))
    (directory / "report.html").write_text(html.render(record, evidence.inventory(directory)), "utf-8")
    _seal(directory, place / "key.pem")
    command = ("report", "--run", "20261122T220004-7f3a", "--format", "html")
    done = mandate(*command, cwd=place, env=_home(place))
    assert done.stdout.strip() == str(directory / "report.html")
    assert evidence.verify_bundle(directory) == []


def test_verify_is_0_for_good_and_6_with_every_file_named_for_bad(place: Path) -> None:
    directory = _complete(place)
    _seal(directory, place / "key.pem")
    good = mandate("report", "--verify", directory, cwd=place, env=_home(place))
    assert good.exit_code == 0, good.stderr
    assert "2 files are what they were" in good.stdout
    assert "does not show" in good.stdout
    (directory / "check.txt").write_text("PASS\n")
    (directory / "new.txt").write_text("")
    (directory / "run.json").unlink()
    bad = mandate("report", "--verify", directory / "evidence.json", cwd=place, env=_home(place))
    assert bad.exit_code == 6
    assert [line.split(": ")[:2] for line in bad.stdout.splitlines()] == [
        ["changed", "check.txt"],
        ["added", "new.txt"],
        ["missing", "run.json"],
    ]
    told = mandate("report", "--verify", directory, "--format", "json", cwd=place, env=_home(place))
    assert told.exit_code == 6
    problems = json.loads(told.stdout)["error"]["fields"]["problems"]
    assert [problem["kind"] for problem in problems] == ["changed", "added", "missing"]


def test_verify_by_migration_and_with_a_key(place: Path) -> None:
    directory = place / "runs" / "008-20261123T010000-aaaa"
    key = place / "key.pem"
    _seal(directory, key)
    public = place / "pub.pem"
    public.write_text(signing.public_pem(signing.private_key(key).public_key()))
    good = mandate("report", "008", "--key", public, cwd=place, env=_home(place))
    assert good.exit_code == 0, good.stderr
    assert "this is the key that was given" in good.stdout
    _seal(directory, key)
    bad = mandate("report", "008", "--verify", "--key", public, cwd=place, env=_home(place))
    assert bad.exit_code == 6
    assert "not signed by the given key" in bad.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["007"], "there is no run of migration 007"),
        (["--run", "nope"], "there is no run nope of migration 008"),
        (["--verify", "nowhere"], "cannot be read"),
        (["--verify", "runs", "--key", "missing.pem"], "cannot be read"),
        (["--format", "pdf"], "Invalid value"),
        (["--output", "runs"], "is a directory"),
    ],
)
def test_what_cannot_be_is_a_usage_error(place: Path, arguments: list[str], said: str) -> None:
    done = mandate("report", *arguments, cwd=place, env=_home(place))
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_a_broken_run_is_left_out_and_named(place: Path) -> None:
    broken = place / "runs" / "008-broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"run_id": ')
    done = mandate("report", cwd=place, env=_home(place))
    assert done.exit_code == 0
    assert "left out:" in done.stderr
    assert "008-broken" in done.stderr
    asked = mandate("report", "--run", "broken", cwd=place, env=_home(place))
    assert asked.exit_code == 2


def test_in_a_process_of_its_own(place: Path) -> None:
    directory = _complete(place)
    _seal(directory, place / "key.pem")
    (directory / "check.txt").unlink()
    done = commands.mandate("report", "--verify", directory, cwd=place, env=_home(place))
    assert done.returncode == 6
    assert done.stdout == "missing: check.txt: signed, and not there any more\n"
    assert done.stderr.startswith("error: the evidence of")
