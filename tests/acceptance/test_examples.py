"""The agents of examples/ do what their README says: programs of their own, a token, a served instance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.acceptance.pages import ROOT
from tests.access import make_token
from tests.commands import clean_environment, mandate
from tests.conftest import MIGRATIONS
from tests.posting import counted
from tests.servers import Databases
from tests.serving import serving

from mandate.client import Client, NotAuthorized
from mandate.controlplane.access.principal import Role
from mandate.postgres.connection import Target
from mandate.postgres.embedded import EmbeddedServer

AGENTS = ROOT / "examples" / "agents"
ACME = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@dataclass(frozen=True)
class Served:
    """A service on what mandate.yaml of the examples says; only tokens let anybody in."""

    url: str
    token: str
    target: Target

    def run(self, name: str, token: str | None) -> subprocess.CompletedProcess[str]:
        """Run an agent."""
        given = {"MANDATE_URL": self.url} | ({} if token is None else {"MANDATE_TOKEN": token})
        return subprocess.run(
            [sys.executable, str(AGENTS / name)],
            env=clean_environment(given),
            cwd=Path("/"),
            capture_output=True,
            text=True,
            check=False,
        )

    def lines(self, name: str) -> list[str]:
        """What an agent prints that ends well."""
        ran = self.run(name, self.token)
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout.splitlines()


@pytest.fixture(scope="module")
def served(postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    databases = Databases(postgres, MIGRATIONS)
    target = databases.create("v8")
    applied = mandate("apply", "-f", AGENTS / "mandate.yaml", "--yes", "--dsn", target.conninfo)
    assert applied.returncode == 0, applied.stderr
    token = make_token(target, Role.AGENT, "billing", organization=ACME)
    with serving(target, tmp_path_factory.mktemp("log")) as service:
        yield Served(f"http://localhost:{service.port}", token, target)
    databases.drop(target.database)


def test_each_agent_gets_its_verdict(served: Served) -> None:
    allowed = served.lines("allowed.py")
    assert allowed[0] == "refunded 40 for order 4711"
    assert [line.split("  ")[1] for line in allowed[1:]][-1] == "Outcome: EXECUTED"
    assert served.lines("paused.py") == [
        "paused by pause-large: wait for Payments; an action that is taken up again is a new decision",
        "paid: 0.0",
    ]
    assert served.lines("blocked.py") == [
        "blocked by block-unverified: do not try again: Payments blocks this",
        "paid: 0",
    ]
    assert counted(served.target)[:2] == (3, 3)


def test_without_a_token_nothing_is_paid(served: Served) -> None:
    before = counted(served.target)
    ran = served.run("allowed.py", None)
    assert ran.returncode == 1
    assert "mandate.client.errors.NotAuthenticated: 401" in ran.stderr
    assert "refunded" not in ran.stdout
    assert counted(served.target) == before


def test_an_agent_lists_nothing(served: Served) -> None:
    with Client(served.url, served.token) as client, pytest.raises(NotAuthorized) as caught:
        next(client.decisions(domain="billing"))
    assert (caught.value.status, caught.value.name) == (403, "role-not-allowed")
