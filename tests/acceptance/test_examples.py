"""The agents of examples/ do what their README says, as programs of their own against a served instance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.pages import ROOT
from tests.commands import clean_environment, mandate
from tests.conftest import MIGRATIONS
from tests.posting import counted
from tests.servers import Databases
from tests.serving import serving

from mandate.postgres.connection import Target
from mandate.postgres.embedded import EmbeddedServer

AGENTS = ROOT / "examples" / "agents"


@pytest.fixture(scope="module")
def served(
    postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Target]]:
    """Address of a service on what mandate.yaml of the examples says, and its database."""
    databases = Databases(postgres, MIGRATIONS)
    target = databases.create("v8")
    applied = mandate("apply", "-f", AGENTS / "mandate.yaml", "--yes", "--dsn", target.conninfo)
    assert applied.returncode == 0, applied.stderr
    with serving(target, tmp_path_factory.mktemp("log")) as service:
        yield f"http://localhost:{service.port}", target
    databases.drop(target.database)


def run(name: str, url: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, str(AGENTS / name)],
        env=clean_environment({"MANDATE_URL": url}),
        cwd=Path("/"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


def test_each_agent_gets_its_verdict(served: tuple[str, Target]) -> None:
    url, target = served
    allowed = run("allowed.py", url)
    assert allowed[0] == "refunded 40 for order 4711"
    assert [line.split("  ")[1] for line in allowed[1:]][-1] == "Outcome: EXECUTED"
    assert run("paused.py", url) == [
        "paused by pause-large: wait for Payments; an action that is taken up again is a new decision",
        "paid: 0.0",
    ]
    assert run("blocked.py", url) == [
        "blocked by block-unverified: do not try again: Payments blocks this",
        "paid: 0",
    ]
    assert counted(target)[:2] == (3, 3)
