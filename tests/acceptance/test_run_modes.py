"""Migration 008 by each of its ways: the same schema and rows, what is said about it, and the ways back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import conducting
from tests.conducting import Conductor, named_rows, seeded, version
from tests.servers import DatabaseFactory
from tests.serving import eventually
from tests.sqlfiles import MIGRATION, PRE_CHECKS, REFERENCE, check, dump, psql

from mandate.postgres.connection import Target, connect

pytestmark = pytest.mark.slow

QUIET = ("--yes", "--no-rehearsal")


def told(target: Target, place: Path, *arguments: str) -> str:
    """Stdout of a command that succeeds, as one line."""
    done = conducting.command(target, place, *arguments)
    assert done.code == 0, done.stderr + done.stdout
    return " ".join(done.stdout.split())


def newest_page(place: Path) -> str:
    """The report of the run that was written last."""
    pages = sorted(place.glob("runs/*/report.html"), key=lambda path: path.stat().st_mtime)
    return pages[-1].read_text("utf-8")


@pytest.mark.parametrize("flag", ["--offline", "--online", "--plain-sql"])
def test_every_way_ends_in_the_same_schema_and_rows(
    database: DatabaseFactory, tmp_path: Path, flag: str
) -> None:
    target = seeded(database("v7"))
    before = named_rows(target)
    done = conducting.run(target, tmp_path, *QUIET, flag)
    assert done.code == 0, done.stderr
    assert named_rows(target) == before
    assert "VERIFIED" in told(target, tmp_path, "verify", "008")
    if flag == "--plain-sql":
        refused = conducting.command(target, tmp_path, "rollback", "008", "--yes")
        assert refused.code == 9
        assert "plain SQL" in refused.stderr
        assert "mandate rollback 008 --from-backup" in " ".join(refused.stderr.split())
        assert conducting.command(target, tmp_path, "finalize", "008", "--yes").code == 9
    else:
        assert "finalized" in conducting.command(target, tmp_path, "finalize", "008", "--yes").stderr
        assert "VERIFIED" in told(target, tmp_path, "verify", "008")
    assert dump(target) == REFERENCE.read_text("utf-8")


def test_the_window_is_shown_goes_back_and_ends(database: DatabaseFactory, tmp_path: Path) -> None:
    target = seeded(database("v7"))
    before = named_rows(target)
    done = conducting.run(target, tmp_path, "--yes")
    assert done.code == 0, done.stderr
    assert "mandate finalize 008" in done.stdout
    assert "rolled back in" in done.stderr, "the rehearsal went back, too"
    _the_hand_run_files_name_the_window(target)
    assert "window: version 7's tables are kept" in told(target, tmp_path, "status")
    assert "to go back to without loss" in told(target, tmp_path, "report", "008")
    for command in ("rollback", "finalize"):
        asked = conducting.command(target, tmp_path, command, "008")
        assert asked.code == 10, "nobody said yes"
    assert version(target) == 8
    back = told(target, tmp_path, "rollback", "008", "--yes")
    assert "ROLLED BACK" in back
    assert "Version 7 is in use, with everything written since" in back
    page = newest_page(tmp_path)
    assert "Phases of the engine" in page
    assert "Written since, taken over" in page
    assert version(target) == 7
    assert named_rows(target) == before
    _an_interrupted_end_is_done_and_recorded(target, tmp_path, "rollback", "ROLLED BACK")
    assert "rolled back already" in told(target, tmp_path, "rollback", "008", "--yes")
    assert "holds everything that was written since" in told(target, tmp_path, "report", "008")
    assert conducting.run(target, tmp_path).code == 0
    assert named_rows(target) == before
    ended = told(target, tmp_path, "finalize", "008", "--yes")
    assert "COMPLETE" in ended
    assert "Version 7's tables are gone" in ended
    page = newest_page(tmp_path)
    assert "Disk given back" in page
    assert "mandate_pre_008.decision_events" in page
    _an_interrupted_end_is_done_and_recorded(target, tmp_path, "finalize", "Version 7's tables are gone")
    assert "finalized already" in told(target, tmp_path, "finalize", "008", "--yes")
    late = conducting.command(target, tmp_path, "rollback", "008", "--yes")
    assert late.code == 9
    assert "finalized" in late.stderr
    assert "--from-backup" in late.stderr
    restored = conducting.command(target, tmp_path, "rollback", "008", "--from-backup", "--yes")
    assert restored.code == 0, restored.stderr
    assert version(target) == 7
    _services_are_started_when_that_was_not_done(target, tmp_path)


def _an_interrupted_end_is_done_and_recorded(target: Target, place: Path, command: str, said: str) -> None:
    """The engine had come to its end when the conductor was killed: the journal does not have the step."""
    with connect(target) as session:
        session.execute("DELETE FROM mandate_conductor.steps WHERE name = %s", (command,))
        if command == "rollback":
            session.execute("UPDATE mandate_conductor.runs SET finished_at = NULL")
    assert said in told(target, place, command, "008", "--yes")


def _services_are_started_when_that_was_not_done(target: Target, place: Path) -> None:
    with connect(target) as session:
        session.execute(
            "UPDATE mandate_conductor.steps SET evidence = evidence - 'restarted' WHERE name = 'rollback'"
        )
    again = conducting.command(target, place, "rollback", "008", "--from-backup", "--yes")
    assert again.code == 0, again.stderr
    assert "restart: nobody was started" in again.stderr
    assert "rolled back already" in told(target, place, "rollback", "008", "--from-backup", "--yes")


def held(target: Target, place: Path) -> Conductor:
    """A run whose cutover is held."""
    conductor = conducting.start(target, place, *QUIET, "--online", "--hold-cutover")
    eventually(lambda: "the cutover is held" in told(target, place, "status"), within_seconds=120)
    return conductor


def test_control_from_another_terminal(database: DatabaseFactory, tmp_path: Path) -> None:
    target = seeded(database("v7"))
    assert conducting.command(target, tmp_path, "pause", "008").code == 9, "nothing is under way"
    conductor = held(target, tmp_path)
    assert "pause" in told(target, tmp_path, "pause", "008")
    eventually(lambda: "paused" in told(target, tmp_path, "status"))
    assert "go on" in told(target, tmp_path, "resume", "008")
    assert "50%" in told(target, tmp_path, "throttle", "008", "0.5")
    assert conducting.command(target, tmp_path, "throttle", "008", "0").code == 2
    assert version(target) == 7
    assert "released" in told(target, tmp_path, "cutover", "008")
    assert conductor.finish().code == 0
    assert version(target) == 8


def test_a_dead_run_is_no_leftover_keeps_its_mode_and_can_be_aborted(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    before = named_rows(target)
    held(target, tmp_path).kill()
    assert "READY" in told(target, tmp_path, "check", "008"), "it goes on with what is there"
    _the_hand_run_files_refuse(target)
    planned = conducting.command(target, tmp_path, "plan", "008", "--plain-sql")
    refused = conducting.run(target, tmp_path, *QUIET, "--plain-sql")
    assert refused.code == planned.code == 2
    assert "mandate abort 008" in " ".join(refused.stderr.split())
    assert "nothing of it is left" in told(target, tmp_path, "abort", "008")
    assert "nothing of it is left" in told(target, tmp_path, "abort", "008"), "however often"
    with connect(target) as session:
        assert not session.rows("SELECT FROM pg_namespace WHERE nspname ~ '^mandate_(new|pre|rekey)_'")
        assert not session.rows("SELECT FROM pg_trigger WHERE tgname ~ '^zzzz'")
    done = conducting.run(target, tmp_path, *QUIET, "--plain-sql")
    assert done.code == 0, done.stderr
    assert named_rows(target) == before


def _the_hand_run_files_refuse(target: Target) -> None:
    """Both name what is there and what to do; the engine's change is as it was."""
    failed, output = check(target)
    assert failed == {"leftovers"}
    assert "schema mandate_rekey_008" in output
    assert "mandate abort 008 drops it" in output
    done = psql(target, MIGRATION)
    assert done.returncode == 3
    assert "REFUSED: `mandate run 008` is at work" in done.stderr
    assert "mandate_new_008, mandate_rekey_008" in done.stderr
    assert "`mandate abort 008` drops what it built" in done.stderr
    assert version(target) == 7


def _the_hand_run_files_name_the_window(target: Target) -> None:
    done = psql(target, MIGRATION)
    assert done.returncode == 0, done.stderr
    assert "already applied" in done.stdout
    assert "`mandate finalize 008` drops version 7's tables" in done.stdout
    checked = psql(target, PRE_CHECKS)
    assert checked.returncode == 0, checked.stderr
    assert "ALREADY AT VERSION 8, nothing to migrate; the reverse window is open" in checked.stdout


def test_an_abort_ends_a_living_run_with_8_and_it_can_begin_again(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    conductor = held(target, tmp_path)
    assert "abort" in told(target, tmp_path, "abort", "008")
    done = conductor.finish()
    assert done.code == 8, done.stderr
    assert "aborted from another terminal" in " ".join(done.stdout.split())
    assert version(target) == 7
    assert conducting.run(target, tmp_path).code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "008", "--online", "--plain-sql"),
        ("rollback", "008", "--from-backup", "--online"),
        ("finalize", "010"),
        ("abort", ""),
        ("throttle", "008", "nan"),
        ("run", "008", "--deadline", "-1"),
        ("run", "008", "--attempts", "0"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    target = Target.from_dsn("postgresql://postgres@localhost:1/mandate")
    done = conducting.command(target, tmp_path, *arguments, "--format", "json")
    assert done.code == 2, done.stderr
    assert done.json["error"]["code"] == "usage"
