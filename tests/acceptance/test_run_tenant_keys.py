"""Migration 009 by the conductor, as 008 is: there, back without loss, there again, and under clients."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from tests import conducting
from tests.clients import crowd, held_by
from tests.conducting import Finished, named_rows, seeded, version
from tests.posting import ORGANIZATION
from tests.servers import DatabaseFactory
from tests.serving import eventually, serving
from tests.sqlfiles import MIGRATIONS, dump, psql
from typer.testing import CliRunner

from mandate.cli.app import build
from mandate.postgres.connection import Target, connect
from mandate.rekey import journal

pytestmark = pytest.mark.slow

REFERENCE = MIGRATIONS / "reference" / "version_9_schema.sql"
QUIET = ("--yes", "--no-rehearsal")
BORN = "0e0e0e0e-0000-4000-8000-000000000009"


def do(target: Target, place: Path, *arguments: str, code: int = 0) -> Finished:
    """A command in this process, which spares the second that another one takes to start."""
    with chdir(place):
        done = CliRunner(env={"DATABASE_URL": target.conninfo}).invoke(build(arguments[0]), arguments)
    assert done.exit_code == code, done.stderr + done.stdout
    return Finished(done.exit_code, done.stdout, done.stderr)


def told(target: Target, place: Path, *arguments: str) -> str:
    """Stdout of a command that succeeds, as one line; nothing in it is wider than a terminal."""
    said = do(target, place, *arguments).stdout
    wide = [line for line in said.splitlines() if len(line) > 80 and str(place) not in line]
    assert not wide, wide
    return " ".join(said.split())


def steps(done: Finished) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in done.json["run"]["steps"]}


def left(target: Target) -> list[dict[str, Any]]:
    """Schemas of the engine that are still there."""
    with connect(target) as session:
        return session.rows("SELECT nspname FROM pg_namespace WHERE nspname ~ '^mandate_(new|pre|rekey)_'")


def decide(target: Target) -> None:
    """A decision, as version 9 records it."""
    with connect(target) as session:
        session.execute(
            "INSERT INTO mandate.decision_events (decision_id, intent, stage, actor, target, timestamp,"
            " organization_id, domain) SELECT %s, 'i', 'proposed', 'a', 't', now(), organization_id, domain"
            " FROM mandate.domains WHERE organization_id = %s AND domain = 'finance'",
            (BORN, ORGANIZATION),
        )


def waiting(target: Target) -> str | None:
    """What a run says it waits for."""
    with connect(target) as session:
        return journal.waiting(session, "009") if journal.exists(session) else None


def _the_hand_run_files_refuse(target: Target) -> None:
    done = psql(target, MIGRATIONS / "009_tenant_keys.sql")
    assert done.returncode == 3
    assert "REFUSED: `mandate run 009` is at work" in done.stderr
    assert "mandate abort 009 drops it" in psql(target, MIGRATIONS / "009_PRE_MIGRATION_CHECKS.sql").stdout


def test_there_and_back_and_there_again_with_a_report(database: DatabaseFactory, tmp_path: Path) -> None:
    target = seeded(database("v8"))
    before = named_rows(target)
    assert "Plan for migration 009" in told(target, tmp_path, "plan", "009", "--no-sample")
    assert "READY to migrate: 12 of 12" in told(target, tmp_path, "check", "009")
    done = do(target, tmp_path, "run", "009", "--yes", "--format", "json")
    found = steps(done)
    assert found["rehearse"]["status"] == "passed", "it went there, back and there again on a copy"
    assert found["migrate"]["evidence"]["method"] == "engine"
    assert all(table["equal"] for table in found["verify"]["evidence"]["fingerprints"])
    assert not [tick for tick in done.json["run"]["checklist"][:9] if tick["ticked"] is not True]
    assert named_rows(target) == before
    assert (
        (tmp_path / "migration_009_execution_log.txt").read_text().startswith("Migration: 009 - Tenant Keys")
    )
    report = told(target, tmp_path, "report", "009")
    assert "Every key begins with organization_id" in report
    assert "Version 8's tables are kept" in report
    assert "version 8's tables are kept since" in told(target, tmp_path, "status")
    assert "version 9: migration 008 is behind it" in told(target, tmp_path, "run", "008")
    assert "completed migration 009" in told(target, tmp_path, "run", "009", "--yes")
    assert "undo it first: `mandate rollback 009`" in do(target, tmp_path, "rollback", "008", code=9).stderr
    decide(target)
    there = named_rows(target)
    assert "Version 8 is in use, with everything" in told(target, tmp_path, "rollback", "009", "--yes")
    assert version(target) == 8
    assert named_rows(target) == there, "what was written on version 9 is there"
    assert "holds everything that was written since" in told(target, tmp_path, "report", "009")
    assert "COMPLETE" in told(target, tmp_path, "run", "009", *QUIET)
    assert "Version 8's tables are gone" in told(target, tmp_path, "finalize", "009", "--yes")
    assert "finalized already" in told(target, tmp_path, "finalize", "009", "--yes")
    assert named_rows(target) == there
    assert left(target) == []
    assert dump(target) == REFERENCE.read_text("utf-8")


def test_nobody_is_refused_while_it_runs_waits_goes_back_and_runs_again(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v8-seeded")
    with serving(target, tmp_path / "log") as service, crowd(target, service, writers=0, callers=3) as those:
        run = conducting.start(target, tmp_path, *QUIET, "--online", "--hold-cutover", migration="009")
        eventually(lambda: "the cutover is held" in (waiting(target) or ""), within_seconds=120)
        run.kill()
        _the_hand_run_files_refuse(target)
        assert "READY to migrate" in told(target, tmp_path, "check", "009"), "it goes on with what is there"
        run = conducting.start(target, tmp_path, *QUIET, migration="009")
        eventually(lambda: "the cutover is held" in (waiting(target) or ""), within_seconds=120)
        assert "the cutover is held" in told(target, tmp_path, "status")
        assert "pause" in told(target, tmp_path, "pause", "009")
        assert "go on" in told(target, tmp_path, "resume", "009")
        assert "50%" in told(target, tmp_path, "throttle", "009", "0.5")
        assert version(target) == 8
        assert "released" in told(target, tmp_path, "cutover", "009")
        assert run.finish().code == 0
        assert version(target) == 9
        do(target, tmp_path, "rollback", "009", "--yes")
        assert version(target) == 8
        do(target, tmp_path, "run", "009", *QUIET, "--online")
        do(target, tmp_path, "finalize", "009", "--yes")
        those.require_unharmed()
    written = those.decisions
    decisions, _, _ = held_by(target)
    assert {made: decisions.get(made) for made in written} == written
    assert "VERIFIED" in told(target, tmp_path, "verify", "009")
    assert dump(target) == REFERENCE.read_text("utf-8")


def test_the_hand_run_file_ends_in_the_same(database: DatabaseFactory, tmp_path: Path) -> None:
    target = seeded(database("v8"), decisions=50)
    before = named_rows(target)
    done = do(target, tmp_path, "run", "009", *QUIET, "--plain-sql", "--format", "json")
    assert steps(done)["migrate"]["evidence"]["method"] == "plain-sql"
    assert named_rows(target) == before
    refused = do(target, tmp_path, "rollback", "009", "--yes", code=9).stderr
    assert "009 was run as plain SQL" in refused
    assert dump(target) == REFERENCE.read_text("utf-8")
    back = do(target, tmp_path, "rollback", "009", "--from-backup", "--yes", "--format", "json")
    assert steps(back)["rollback"]["evidence"]["written_since"] == {}, "nothing was written, nothing is lost"
    assert version(target) == 8
    assert named_rows(target) == before
