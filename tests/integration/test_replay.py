"""mandate replay on seeded and constructed histories, as the command and as a process that is killed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.commands import mandate
from tests.servers import HISTORY, DatabaseFactory

from mandate.controlplane.replay import Request, replay
from mandate.postgres.connection import Session, Target, connect, sql

# In every history: the domain with the most decisions.
FINANCE = "finance"


def found(target: Target, **request: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Totals and lines of a replay in this process."""
    with replay(target, Request(**request)) as report:
        return report.totals.as_dict(), list(report.lines())


def owner(session: Session) -> None:
    """As a superuser who tampers with the record: triggers that refuse it do not fire."""
    session.execute("SET session_replication_role = replica")


def newest_policies(target: Target, column: str) -> tuple[str, list[dict[str, Any]]]:
    """The newest snapshot of the finance domain with the most decisions: its id and policies."""
    with connect(target) as session:
        row = session.row(
            sql.SQL(
                "SELECT p.snapshot_id::text AS id, p.policies FROM mandate.policy_snapshots p"
                " JOIN mandate.verdict_events v USING (snapshot_id)"
                " GROUP BY p.snapshot_id, p.policies, p.{} ORDER BY count(*) DESC, p.snapshot_id LIMIT 1"
            ).format(sql.Identifier(column))
        )
    assert row is not None
    return row["id"], row["policies"]


def matrix(totals: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(cell["recorded"], cell["replayed"]): cell["decisions"] for cell in totals["matrix"]}


@pytest.mark.parametrize("kind", ["v7-seeded", "v8-seeded"])
def test_a_seeded_history_is_the_same(database: DatabaseFactory, kind: str, tmp_path: Path) -> None:
    target = database(kind)
    with connect(target) as session:
        session.execute("DROP ROLE IF EXISTS replay_reader")
        session.execute("CREATE ROLE replay_reader LOGIN")
        session.execute("GRANT USAGE ON SCHEMA mandate TO replay_reader")
        session.execute("GRANT SELECT ON ALL TABLES IN SCHEMA mandate TO replay_reader")
        recorded = {
            (row["verdict"], row["verdict"]): row["n"]
            for row in session.rows(
                "SELECT verdict::text, count(*) AS n FROM mandate.verdict_events GROUP BY 1"
            )
        }
    reader = Target({**target.parameters, "user": "replay_reader"})
    try:
        result = mandate("replay", "--dsn", reader.conninfo, "--jobs", "2", "--format", "json")
    finally:
        with connect(target) as session:
            session.execute("DROP OWNED BY replay_reader")
            session.execute("DROP ROLE replay_reader")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == "mandate.replay/1"
    assert document["totals"]["decisions"] == document["totals"]["same"] == HISTORY.decisions
    assert matrix(document["totals"]) == recorded
    assert document["decisions"] == []


def test_a_tampered_record_is_found_and_explained(database: DatabaseFactory) -> None:
    target = database("v8-seeded")
    with connect(target) as session:
        owner(session)
        blocked = session.row(
            "SELECT v.decision_id::text AS id, v.matched_policy_ids AS policies FROM mandate.verdict_events v"
            " JOIN mandate.decision_events d USING (decision_id)"
            " WHERE v.verdict = 'BLOCK' AND cardinality(v.matched_policy_ids) = 1"
            " AND array_to_string(v.matched_policy_ids, '') LIKE '%block-unchecked' ORDER BY 1 LIMIT 1"
        )
        assert blocked is not None
        session.execute(
            "UPDATE mandate.verdict_events SET verdict = 'ALLOW' WHERE decision_id = %s", (blocked["id"],)
        )
        others = [
            row["id"]
            for row in session.rows(
                "SELECT decision_id::text AS id FROM mandate.verdict_events WHERE verdict = 'ALLOW'"
                " AND matched_policy_ids = '{}' AND decision_id <> %s ORDER BY 1 LIMIT 3",
                (blocked["id"],),
            )
        ]
        changes: Sequence[tuple[str, Sequence[Any]]] = (
            (
                "UPDATE mandate.verdict_events SET matched_policy_ids = '{made-up}' WHERE decision_id = %s",
                others[:1],
            ),
            ("UPDATE mandate.verdict_events SET spec_version = 99 WHERE decision_id = %s", others[1:2]),
            ("DELETE FROM mandate.verdict_events WHERE decision_id = %s", others[2:]),
        )
        for statement, values in changes:
            assert session.execute(statement.encode(), values) == 1
    totals, lines = found(target)
    told = {line["decision_id"]: line for line in lines}
    assert set(told) == {blocked["id"], *others}
    assert (totals["different"], totals["uncheckable"]) == (3, 1)
    first = told[blocked["id"]]
    assert first["recorded"]["verdict"] == "ALLOW"
    assert first["replayed"]["verdict"] == "BLOCK"
    (policy,) = first["replayed"]["trace"]
    assert policy["policy_id"] == blocked["policies"][0]
    assert [seen["held"] for seen in policy["conditions"]] == [True]
    assert first["why"] == f"ALLOW is recorded, BLOCK comes out: {blocked['policies'][0]} matches"
    assert told[others[0]]["why"] == "ALLOW stands, by other policies: recorded made-up, matching none"
    assert "version 99" in told[others[1]]["why"]
    assert told[others[2]]["why"] == "no verdict is recorded"
    result = mandate("replay", "--dsn", target.conninfo, "--jobs", "1")
    assert result.returncode == 6
    assert first["why"] in " ".join(result.stdout.split())
    (seen,) = policy["conditions"]
    wanted, actual = json.dumps(seen["expected"]), json.dumps(seen["actual"])
    assert f"    + {seen['field']} {seen['operator']} {wanted}, is {actual}\n" in result.stdout
    long = [line for line in result.stdout.splitlines() if len(line) > 80]
    assert [line for line in long if " " in line.strip()] == []  # the names of policies are not broken
    assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}(\.[0-9]+)?\+00:00", first["timestamp"])
    assert "100 %" not in result.stdout
