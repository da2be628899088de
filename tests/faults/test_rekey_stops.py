"""PostgreSQL is stopped at once in every phase; clients come back and ask what became of their writes."""

from __future__ import annotations

import os

import pytest
from tests.rekey_process import REACHED, finished, start
from tests.servers import running_server
from tests.shops import SHOP, create, schemas_left
from tests.stubborn import StubbornWriter, stubborn

from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.rekey import journal

pytestmark = pytest.mark.slow

# MANDATE_TEST_KILLS=all: at every point, which takes minutes.
_ALL = os.environ.get("MANDATE_TEST_KILLS") == "all"

FORWARD = (
    ('"mandate_new_shop"', 3),
    ("CREATE OR REPLACE TRIGGER", 1),
    ('INSERT INTO "mandate_rekey_shop"."chunk"', 2),
    ("CREATE UNIQUE INDEX", 2),
    ('DELETE FROM "mandate_rekey_shop"."log"', 1),
    ("VALIDATE CONSTRAINT", 1),
    ("pg_export_snapshot", 2),
    ('SET SCHEMA "mandate_pre_shop"', 1),
)
BACK = (
    ('DELETE FROM "mandate_rekey_shop"."back_log"', 1),
    ('SET SCHEMA "mandate_new_shop"', 1),
    ("DROP SCHEMA", 1),
)
# The swap is committed, but need not be on the disk.
FLUSH = ("pg_logical_emit_message", 1)
END = (("pg_export_snapshot", 2), ("DROP SCHEMA", 3))


def stopped(server: EmbeddedServer, target: Target, command: str, word: str, count: int) -> None:
    """Begin it, stop the server at that statement and start it again: the command says that it is gone."""
    process = start(target, command, "wait", word, count)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == REACHED, (command, word, process.communicate()[1])
    crash(server)
    _, said = process.communicate("go on\n", timeout=120)
    assert process.returncode == 9, (command, word, said)


def crash(server: EmbeddedServer) -> None:
    embedded.stop(server.data_dir, mode="immediate")
    embedded.start(server.data_dir, port=server.port)


def there_or_not(target: Target, command: str, status: str) -> None:
    """A swap that the disk may not have known when the server stopped is there as a whole, or made now."""
    with connect(target) as session:
        swapped = session.value("SELECT to_regclass('mandate_pre_shop.orders') IS NOT NULL")
        assert swapped == (journal.status(session, "shop") == "swapped")
        there = journal.status(session, "shop") == status
    if not there:
        finished(target, command)


def check(target: Target, writers: list[StubbornWriter]) -> None:
    with connect(target) as session:
        for writer in writers:
            writer.check(session)
    assert sum(writer.acknowledged for writer in writers) > 100


def test_stopped_at_once_in_every_phase_it_goes_on_and_no_acknowledged_write_is_lost() -> None:
    with running_server(18) as server:
        target = server.target("mandate")
        create(target, SHOP)
        with stubborn(target) as writers:
            for word, count in FORWARD if _ALL else FORWARD[1::4]:
                stopped(server, target, "run", word, count)
            stopped(server, target, "run", *FLUSH)
            there_or_not(target, "run", "swapped")
            # The reverse window: nothing runs but the clients.
            crash(server)
            for word, count in BACK if _ALL else BACK[1:]:
                stopped(server, target, "rollback", word, count)
            finished(target, "run")
            stopped(server, target, "rollback", *FLUSH)
            there_or_not(target, "rollback", "rolled back")
            finished(target, "run")
            for word, count in END if _ALL else END[1:]:
                stopped(server, target, "finalize", word, count)
            finished(target, "finalize")
        check(target, writers)
        with connect(target) as session:
            assert schemas_left(session) == []
