"""Every kind of statement, in every phase, forth and back: each is counted by the client that made it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.rekey_statements import CHANGE, KINDS, SCHEMA, writing
from tests.servers import DatabaseFactory
from tests.shops import change, create, schemas_left

from mandate.postgres.connection import Target, connect

pytestmark = pytest.mark.slow

ROLE = "rekey_statements_client"


@pytest.fixture
def target(database: DatabaseFactory) -> Iterator[Target]:
    made = database("empty")
    create(made, SCHEMA)
    create(
        made,
        f"CREATE ROLE {ROLE}; GRANT USAGE ON SCHEMA kinds TO {ROLE};"
        f" GRANT ALL ON ALL TABLES IN SCHEMA kinds TO {ROLE}".encode(),
    )
    yield made
    create(made, f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}".encode())


def test_every_kind_of_statement_is_carried_over_in_every_phase(target: Target) -> None:
    engine = change(target, CHANGE)
    with writing(target, ROLE) as writers:
        engine.run()
        engine.rollback()
        engine.run()
        engine.finalize()
    with connect(target) as session:
        for writer in writers:
            writer.check(session)
            assert set(writer.done) == set(KINDS)
        assert schemas_left(session) == []
