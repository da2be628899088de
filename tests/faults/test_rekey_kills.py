"""The conductor is killed inside of every kind of work, again and again, while clients write."""

from __future__ import annotations

import os
import random

import pytest
from tests.rekey_process import finished, killed, killed_within
from tests.servers import DatabaseFactory
from tests.shops import SHOP, ShopWriter, create, schemas_left, writing

from mandate.postgres.connection import Target, connect
from mandate.rekey import journal

pytestmark = pytest.mark.slow

# A run, and its end, for each kill: all of them take minutes. MANDATE_TEST_KILLS=all is for those.
_ALL = os.environ.get("MANDATE_TEST_KILLS") == "all"

FORWARD = (
    ('INSERT INTO "mandate_rekey_shop"."chunk"', 1),
    ('INSERT INTO "mandate_new_shop"', 2),
    ('INSERT INTO "mandate_rekey_shop"."chunk"', 3),
    ("CREATE UNIQUE INDEX", 2),
    ("ADD CONSTRAINT", 2),
    ('DELETE FROM "mandate_new_shop"', 1),
    ('DELETE FROM "mandate_rekey_shop"."log"', 1),
    ("VALIDATE CONSTRAINT", 2),
    ("pg_export_snapshot", 2),
    ("LOCK TABLE", 1),
    ('SET SCHEMA "mandate_pre_shop"', 1),
    ("SET status = ", 1),
)
BACK = (
    ('DELETE FROM "mandate_rekey_shop"."back_log"', 1),
    ("pg_export_snapshot", 2),
    ('SET SCHEMA "mandate_new_shop"', 1),
    ("VALIDATE CONSTRAINT", 1),
)
END = (("pg_export_snapshot", 3), ("DROP TRIGGER", 1), ("DROP SCHEMA", 2), ("SET status = ", 1))


@pytest.fixture
def target(database: DatabaseFactory) -> Target:
    made = database("empty")
    create(made, SHOP)
    return made


def check(target: Target, writers: list[ShopWriter]) -> None:
    with connect(target) as session:
        for writer in writers:
            assert writer.failures == []
            writer.check(session)


def status(target: Target) -> str | None:
    with connect(target) as session:
        found = journal.load(session, "shop")
    return found.status if found else None


def test_killed_inside_of_everything_it_does_it_goes_on_and_loses_nothing(target: Target) -> None:
    with writing(target, pause_seconds=0.002) as writers:
        for word, count in FORWARD if _ALL else FORWARD[1::4]:
            killed(target, "run", word, count)
            assert status(target) == "running"
        finished(target, "run")
        for word, count in BACK if _ALL else BACK[2:]:
            killed(target, "rollback", word, count)
        finished(target, "run")
        for word, count in END if _ALL else END[2:3]:
            killed(target, "finalize", word, count)
            assert status(target) == "swapped"
        finished(target, "finalize")
    check(target, writers)
    with connect(target) as session:
        assert schemas_left(session) == []


def test_killed_at_any_moment_it_goes_on_and_loses_nothing(target: Target) -> None:
    choose = random.Random(1)
    with writing(target, pause_seconds=0.002) as writers:
        kills = sum(killed_within(target, "run", 2, choose) for _ in range(12 if _ALL else 3))
        if status(target) != "swapped":
            finished(target, "run")
        kills += sum(killed_within(target, "rollback", 2, choose) for _ in range(4 if _ALL else 1))
    assert kills
    check(target, writers)
