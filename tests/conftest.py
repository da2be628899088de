"""Fixtures: one PostgreSQL per major version and test process, databases cloned from templates.

postgres (18), postgres16, postgres15 (Debian's; skips when not installed), any_postgres (each of them),
database (factory of databases on `postgres` or on `server=`), open_directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers import DatabaseFactory, Databases, end_orphans, running_server, temporary_directory

from mandate.postgres.connection import Target
from mandate.postgres.embedded import EmbeddedServer

MIGRATIONS = Path(__file__).parent.parent / "migrations"
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin/initdb")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the developer's shell says about databases."""
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("DATABASE_URL", "MANDATE_DATABASE__DSN", "MANDATE_CONFIG", "MANDATE_EMBEDDED__DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedServer]:
    """PostgreSQL 18."""
    end_orphans()
    with running_server(18) as server:
        yield server


@pytest.fixture(scope="session")
def postgres16() -> Iterator[EmbeddedServer]:
    """PostgreSQL 16."""
    with running_server(16) as server:
        yield server


@pytest.fixture(scope="session")
def postgres15() -> Iterator[EmbeddedServer]:
    """Debian's PostgreSQL 15, where it is installed."""
    if not DEBIAN_15.exists():
        pytest.skip("PostgreSQL 15 of Debian is not installed")
    with running_server(15) as server:
        yield server


@pytest.fixture(scope="session", params=[18, 16, 15])
def any_postgres(request: pytest.FixtureRequest) -> EmbeddedServer:
    """Each version in turn."""
    name = {18: "postgres", 16: "postgres16", 15: "postgres15"}[request.param]
    server = request.getfixturevalue(name)
    assert isinstance(server, EmbeddedServer)
    return server


@pytest.fixture(scope="session")
def _databases() -> dict[Path, Databases]:
    return {}


@pytest.fixture
def database(_databases: dict[Path, Databases], request: pytest.FixtureRequest) -> Iterator[DatabaseFactory]:
    """Make databases: `database("v7")`, `database("v8", server=postgres16)`."""
    made: list[tuple[Databases, str]] = []

    def create(kind: str = "empty", *, server: EmbeddedServer | None = None) -> Target:
        where = server or request.getfixturevalue("postgres")
        databases = _databases.setdefault(where.data_dir, Databases(where, MIGRATIONS))
        target = databases.create(kind)
        made.append((databases, target.database))
        return target

    yield create
    for databases, name in made:
        databases.drop(name)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A temporary directory that another user (PostgreSQL's, under root) may pass through."""
    with temporary_directory() as place:
        yield place


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts servers and processes is slow, unless it says that it is fast."""
    for item in items:
        if "unit" not in item.path.parts and item.get_closest_marker("fast") is None:
            item.add_marker(pytest.mark.slow)
