"""The fixtures that every other integration test stands on."""

from __future__ import annotations

import pytest
from tests.servers import HISTORY, DatabaseFactory

from mandate.postgres.connection import connect
from mandate.postgres.embedded import EmbeddedServer


@pytest.mark.parametrize("kind", ["v7", "empty"])
def test_a_database_of_each_kind_on_each_version(
    any_postgres: EmbeddedServer, database: DatabaseFactory, kind: str
) -> None:
    with connect(database(kind, server=any_postgres)) as session:
        assert session.server_version // 10000 == any_postgres.version
        tables = session.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'mandate'")
        assert tables == (8 if kind == "v7" else 0)


def test_a_clone_keeps_the_search_path_of_its_template(database: DatabaseFactory) -> None:
    with connect(database("v7")) as session:
        assert session.value("SHOW search_path") == "mandate, public"
        assert session.value("SELECT count(*) FROM domains") > 0


def test_a_seeded_database_has_the_history(database: DatabaseFactory) -> None:
    for kind in ("v7-seeded", "v8-seeded"):
        with connect(database(kind)) as session:
            assert session.value("SELECT count(*) FROM decision_events") == HISTORY.decisions
