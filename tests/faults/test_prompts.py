"""Go/no-go questions on a real terminal: no, Ctrl-C, Ctrl-D, mistyped answers and keys pressed too early."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conducting import seeded, version
from tests.servers import DatabaseFactory
from tests.terminal import terminal

from mandate.postgres.connection import Target, connect
from mandate.runbook import journal
from mandate.runbook.record import RunRecord

pytestmark = pytest.mark.slow

RUN = ("run", "008", "--no-rehearsal")
STOP = r"No services are configured.*\[y/N\]: $"
MIGRATE = r"Migrate .*\[y/N\]: $"


def recorded(target: Target) -> RunRecord:
    with connect(target) as session:
        record = journal.load_record(session, migration="008")
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("keys", "code", "status"),
    [("n\r", 10, "waiting"), ("\r", 10, "waiting"), ("\x04", 10, "waiting"), ("\x03", 130, "interrupted")],
)
def test_an_answer_that_is_not_yes_ends_the_run_and_the_journal_says_how(
    database: DatabaseFactory, tmp_path: Path, keys: str, code: int, status: str
) -> None:
    target = database("v7")
    with terminal(target, tmp_path, *RUN) as screen:
        screen.wait_for(STOP)
        screen.type(keys)
        assert screen.finish() == code, screen.shown
    record = recorded(target)
    assert (record.status, record.exit_code) == (status, code)
    assert version(target) == 7


def test_questions_are_answered_one_by_one_and_keys_pressed_before_do_not_count(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    with terminal(target, tmp_path, *RUN) as screen:
        screen.wait_for(STOP)
        screen.type("perhaps\r")
        screen.wait_for(r"y or n, please.*" + STOP)
        screen.type("y\r")
        screen.wait_for(r"\.\.\.\. backup")
        screen.type("y\r")
        screen.wait_for(MIGRATE)
        assert version(target) == 7
        screen.type("YES\r")
        assert screen.finish() == 0, screen.shown
    assert recorded(target).status == "complete"
    assert version(target) == 8
