"""`mandate plan 008`: the engine's forecast, and what it would refuse; nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests import conducting
from tests.conducting import named_rows, seeded, version
from tests.servers import DatabaseFactory
from tests.sqlfiles import dump

from mandate.postgres.connection import Target, connect, sql


def planned(target: Target, place: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = conducting.command(target, place, "plan", "008", *arguments, "--format", "json")
    assert done.code == code, done.stderr
    return done.json


def everything(target: Target) -> tuple[Any, ...]:
    """Schema, rows, and whether there is anything beside."""
    with connect(target) as session:
        beside = session.rows(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ '^mandate' ORDER BY 1",
        )
    return dump(target), named_rows(target), beside


@pytest.mark.parametrize("flags", [("--offline",), ("--online", "--no-sample"), ("--plain-sql",)])
def test_a_plan_before_anything_ever_ran_changes_nothing_and_fits_80_columns(
    database: DatabaseFactory, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    target = seeded(database("v7"))
    before = everything(target)
    found = planned(target, tmp_path, *flags)
    page = conducting.command(target, tmp_path, "plan", "008", "--no-sample", flags[0]).stdout
    assert everything(target) == before
    assert list(tmp_path.iterdir()) == []
    assert max(len(line) for line in page.splitlines() if "://" not in line and "/" not in line) <= 80
    assert found["schema"] == "mandate.plan/1"
    if flags[0] == "--plain-sql":
        assert found["engine"] is None
        assert "rewritten tables and their WAL" in page
        return
    forecast = found["engine"]["forecast"]
    assert found["engine"]["problems"] == []
    assert found["engine"]["unknown"] is None
    rows = {table["table"]: table["rows"] for table in forecast["tables"]}
    assert rows["mandate.decision_events"] == 300
    assert forecast["eta"]["source"] == ("sample" if flags == ("--offline",) else "none")
    at_most = {lock["at_most_seconds"] for lock in forecast["locks"] if lock["phase"] == "cutover, rollback"}
    assert at_most == ({60.0} if flags[0] == "--offline" else {0.5})
    assert "Locks on what clients use" in page
    assert "NOT ENOUGH" not in page
    assert "WAL" in page


def test_what_the_run_would_refuse_is_listed(database: DatabaseFactory, tmp_path: Path) -> None:
    target = seeded(database("v7"))
    with connect(target) as session:
        session.execute("CREATE PUBLICATION hands_off FOR ALL TABLES")
    problems = planned(target, tmp_path, code=3)["engine"]["problems"]
    assert any("hands_off" in problem for problem in problems)
    dry = conducting.run(target, tmp_path, "--dry-run", "--no-sample")
    assert dry.code == 3
    assert "would refuse" in dry.stdout
    assert "hands_off" in dry.stdout
    assert planned(target, tmp_path, "--plain-sql")["engine"] is None


def test_what_somebody_has_looked_at_is_accepted_by_plan_and_run(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    with connect(target) as session:
        session.execute(
            "CREATE FUNCTION public.first_name() RETURNS text LANGUAGE plpgsql AS"
            " 'BEGIN RETURN (SELECT min(name::text) FROM mandate.domains); END'"
        )
    problems = planned(target, tmp_path, code=3)["engine"]["problems"]
    assert problems
    assert all("first_name" in problem for problem in problems)
    accepted = [word for problem in problems for word in ("--accept", problem)]
    assert planned(target, tmp_path, *accepted)["engine"]["problems"] == []
    refused = conducting.run(target, tmp_path)
    assert refused.code == 3
    assert "first_name" in refused.stdout
    assert version(target) == 7
    done = conducting.run(target, tmp_path, "--yes", "--no-rehearsal", *accepted)
    assert done.code == 0, done.stdout
    assert version(target) == 8


def test_a_database_that_only_reads_gets_a_plan_that_says_what_is_not_known(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    with connect(target) as session:
        session.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                sql.Identifier(target.database)
            )
        )
    found = planned(target, tmp_path)
    assert found["engine"]["forecast"] is None
    assert "read-only" in found["engine"]["unknown"]
    page = conducting.command(target, tmp_path, "plan", "008").stdout
    assert "not known" in page
    assert "Nothing was changed." in page
