"""The command mandate apply: what it prints, asks, and exits with."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.commands import MANDATE, clean_environment, mandate, spawn
from tests.governing import WHOLE, changed
from tests.servers import DatabaseFactory
from tests.serving import eventually
from tests.terminal import terminal

from mandate.cli.app import build
from mandate.controlplane.governance.shapes import json_schema
from mandate.postgres.connection import Target, connect


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Ran]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`ran(target, "-f", "m.yaml")` in this process, which has started already; nobody is at a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before = signal.getsignal(signal.SIGTERM)

    def run(target: Target, *arguments: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            build("apply")(["apply", *arguments, "--dsn", target.conninfo])
        code = ended.value.code
        assert isinstance(code, int)
        return Ran(code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


def organizations(target: Target) -> list[str]:
    with connect(target) as session:
        return [row["name"] for row in session.rows("SELECT name FROM mandate.organizations ORDER BY name")]


def test_diff_refusal_and_writing_without_a_terminal(
    database: DatabaseFactory, tmp_path: Path, ran: Run
) -> None:
    target = database("v8")
    (tmp_path / "m.yaml").write_text(WHOLE)
    dry = ran(target, "-f", "m.yaml", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    lines = dry.stdout.splitlines()
    assert "  + organization Acme" in lines
    assert "  +     scope        billing.prod.payments" in lines
    assert lines[-3:] == ["7 to create, 0 there already and equal", "", "Dry run: nothing was changed."]
    assert max(map(len, lines)) <= 80
    waits = ran(target, "-f", "m.yaml")
    assert waits.returncode == 10
    assert waits.stdout.splitlines() == lines[:-2]
    assert "--yes was not given" in waits.stderr
    assert organizations(target) == ["Example"]
    done = ran(target, "-f", "m.yaml", "--yes", "--format", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["applied"], document["created"]) == ("mandate.apply/1", True, 7)
    assert {change["action"] for change in document["changes"]} == {"create"}
    # Nothing to create needs nobody's approval.
    again = ran(target, "-f", "m.yaml", "--format", "json")
    assert again.returncode == 0
    document = json.loads(again.stdout)
    assert (document["applied"], document["created"], document["unchanged"]) == (False, 0, 7)


def test_stopped_while_it_waits_it_changes_nothing_and_says_so_in_a_line(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v8")
    (tmp_path / "m.yaml").write_text(WHOLE)
    waits = (
        "SELECT EXISTS (SELECT FROM pg_locks"
        " WHERE NOT granted AND relation = 'mandate.policy_snapshots'::regclass)"
    )
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with connect(target) as other, other.transaction():
            other.execute("LOCK TABLE mandate.policy_snapshots IN EXCLUSIVE MODE")
            started = spawn("apply", "-f", tmp_path / "m.yaml", "--yes", "--dsn", target.conninfo)
            eventually(lambda: other.value(waits))
            started.send_signal(number)
            _, said = started.communicate(timeout=60)
        assert (started.returncode, said) == (code, "interrupted: nothing more was started\n")
        assert organizations(target) == ["Example"]


def test_mistakes_and_conflicts_end_with_their_places(
    database: DatabaseFactory, tmp_path: Path, ran: Run
) -> None:
    target = database("v8")
    text = changed("field: amount", "field: amonut").replace("stage: pre_commit", "stage: before")
    (tmp_path / "m.yaml").write_text(text)
    mistaken = ran(target, "-f", "m.yaml", "--yes", "--format", "json")
    assert mistaken.returncode == 2
    (defect,) = json.loads(mistaken.stdout)["error"]["fields"]["defects"]
    assert (defect["file"], defect["line"], defect["column"]) == ("m.yaml", 17, 16)
    assert defect["pointer"] == "/domains/0/specs/0/stage"
    assert "\nm.yaml:17:16: 'before' is not" in mistaken.stderr
    (tmp_path / "m.yaml").write_text(WHOLE.replace("billing", "finance"))
    conflict = ran(target, "-f", "m.yaml", "--yes")
    assert conflict.returncode == 3
    assert "m.yaml:13:19: finance.default belongs to another organization" in conflict.stderr
    assert organizations(target) == ["Example"]
    (tmp_path / "m.yaml").write_bytes(b"\x00" * 100)
    assert ran(target, "-f", "m.yaml", "--yes").returncode == 2
    none = ran(target, "-f", "none.yaml", "--yes")
    assert (none.returncode, "none.yaml cannot be read: No such file" in none.stderr) == (2, True)
    assert ran(target).returncode == 2
    assert ran(target, "--check", "--schema").returncode == 2


def test_version_7_is_refused_with_what_to_do(database: DatabaseFactory, tmp_path: Path, ran: Run) -> None:
    target = database("v7")
    (tmp_path / "m.yaml").write_text(WHOLE)
    refused = ran(target, "-f", "m.yaml", "--yes", "--format", "json")
    assert refused.returncode == 3
    error = json.loads(refused.stdout)["error"]
    assert (error["code"], "mandate run 008" in error["hint"]) == ("needs-version-8", True)
    checked = ran(target, "--check")
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "Nothing is wrong with them.")


def test_a_terminal_is_asked(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    (tmp_path / "m.yaml").write_text(WHOLE)
    question = r"7 to create.*Create these 7\?.*\[y/N\]: $"
    with terminal(target, tmp_path, "apply", "-f", "m.yaml") as screen:
        screen.wait_for(question)
        screen.type("n\r")
        assert screen.finish() == 10, screen.shown
        assert "nothing was changed" in screen.shown
    assert organizations(target) == ["Example"]
    with terminal(target, tmp_path, "apply", "-f", "m.yaml") as screen:
        screen.wait_for(question)
        screen.type("y\r")
        assert screen.finish() == 0, screen.shown
        assert "Created 7" in screen.shown
    assert organizations(target) == ["Acme", "Example"]


def test_what_is_rendered_is_read_from_standard_input(database: DatabaseFactory, ran: Run) -> None:
    target = database("v8")
    rendered = ran(target, "--render")
    assert rendered.returncode == 0, rendered.stderr
    again = subprocess.run(
        [str(MANDATE), "apply", "-f", "-", "--format", "json", "--dsn", target.conninfo],
        input=rendered.stdout,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    document: dict[str, Any] = json.loads(again.stdout)
    assert (document["file"], document["to_create"], document["applied"]) == ("<stdin>", 0, False)
    assert document["unchanged"] > 10


@pytest.mark.parametrize("dsn", [None, "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2"])
def test_the_form_of_a_file_is_told_without_a_database(tmp_path: Path, dsn: str | None) -> None:
    (tmp_path / "m.yaml").write_text(changed("verdict: PAUSE", "verdict: PAWS"))
    (tmp_path / "mandate.toml").write_text('[embedded]\ndata_dir = "none"\n')
    where = ("--dsn", dsn) if dsn else ()
    done = mandate("apply", "-f", "m.yaml", *where, cwd=tmp_path)
    assert done.returncode == 2
    assert "m.yaml:43:18: 'PAWS' is not" in done.stderr
    (tmp_path / "m.yaml").write_text(WHOLE)
    done = mandate("apply", "-f", "m.yaml", *where, cwd=tmp_path)
    assert (done.returncode, "no database:" in done.stderr) == ((9, False) if dsn else (2, True)), done.stderr


def test_the_schema_needs_no_database(tmp_path: Path) -> None:
    printed = mandate("apply", "--schema", cwd=tmp_path, env={"HOME": str(tmp_path)})
    assert (printed.returncode, json.loads(printed.stdout)) == (0, json_schema())
