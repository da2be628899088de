"""A command is given again after it was killed past the point of no return: it ends well, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.commands import mandate
from tests.rekey_process import killed
from tests.servers import DatabaseFactory
from tests.shops import SHOP, TO_BIGINT, create, schemas_left

from mandate.postgres.connection import Target, connect

pytestmark = pytest.mark.slow

# Right before the journal's last word about the swap.
RUN = ("SET finished_at = clock_timestamp()", 9)
# Right after the swap back, and right before the last object is gone.
ROLLBACK = (("VALIDATE CONSTRAINT", 1), ('DROP SCHEMA IF EXISTS "mandate_rekey_shop"', 1))
WIDTH = 80


class Shop:
    """`mandate rekey ... shop.toml`, and what it says."""

    def __init__(self, target: Target, place: Path) -> None:
        self.target, self.place = target, place
        (place / "shop.toml").write_text(TO_BIGINT)

    def said(self, command: str, *arguments: str, code: int = 0) -> str:
        """Everything on both streams, which fits a terminal."""
        env = {"DATABASE_URL": self.target.conninfo, "COLUMNS": str(WIDTH)}
        done = mandate("rekey", command, "shop.toml", *arguments, env=env, cwd=self.place)
        assert done.returncode == code, done.stderr + done.stdout
        text = done.stderr + done.stdout
        assert max(map(len, text.splitlines()), default=0) <= WIDTH
        return " ".join(text.split())

    def left(self) -> list[str]:
        with connect(self.target) as session:
            return schemas_left(session)


@pytest.fixture
def shop(database: DatabaseFactory, tmp_path: Path) -> Shop:
    target = database("empty")
    create(target, SHOP)
    return Shop(target, tmp_path)


def test_a_command_that_was_killed_after_it_counted_ends_with_0_the_next_time(shop: Shop) -> None:
    killed(shop.target, "run", *RUN)
    assert "shop is swapped. The old tables are kept in step" in shop.said("run")
    refused = shop.said("abort", code=9)
    assert "nothing to abort: shop is swapped" in refused
    assert "`rollback` goes back" in refused
    for point in ROLLBACK:
        killed(shop.target, "rollback", *point)
        if point == ROLLBACK[0]:
            refused = shop.said("finalize", code=9)
            assert "shop is rolled back, not swapped" in refused
            assert "`run` goes forward again" in refused
        else:
            assert "rolled back; nothing was lost" in shop.said("rollback")
        assert shop.left() == []
        assert "is swapped; clients waited" in shop.said("run")
    assert "finalized" in shop.said("finalize")
    assert "finalized: only the record of it is left" in shop.said("finalize")
    refused = shop.said("rollback", code=9)
    assert "shop is finalized, not swapped" in refused
    assert "backups" in refused


def test_an_abort_again_says_that_nothing_is_left(shop: Shop) -> None:
    assert "nothing to abort: shop is not there" in shop.said("abort", code=9)
    killed(shop.target, "run", "CREATE UNIQUE INDEX", 1)
    refused = shop.said("rollback", code=9)
    assert "shop is running, not swapped" in refused
    assert "`abort` drops what it built" in refused
    for _ in range(2):
        assert "shop: nothing of it is left" in shop.said("abort")
    assert shop.left() == []
    refused = shop.said("finalize", code=9)
    assert "shop is aborted, not swapped" in refused
    assert "`run` begins again" in refused
