"""mandate replay --candidate: exact matrices, hostile values, bad files, and being killed."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from tests.commands import mandate, spawn
from tests.posting import ORGANIZATION
from tests.servers import HISTORY, DatabaseFactory
from tests.serving import eventually

from mandate.controlplane.governance import InvalidDocument
from mandate.controlplane.replay import Request, replay
from mandate.errors import NotMandate, RunLocked, UsageError
from mandate.postgres.connection import Jsonb, Target, connect, sql

SNAPSHOT = "a0000002-0000-4000-8000-000000000002"
FORMULA = "=cmd|' /C calc'!A0"
PROD = {"service": "payments", "agent": "refund-agent", "environment": "prod"}


def record(
    target: Target,
    number: int,
    verdict: str,
    context: object,
    *,
    spec_id: str | None = "finance.refund",
    actor: str = "agent",
    target_name: str = "t",
    policies: Iterable[str] = (),
) -> str:
    """A refund decision received in second `number` of 2026 in version 8, a year old by its own time."""
    decision_id = str(UUID(int=number))
    spec_version = None if spec_id is None else 1
    with connect(target) as session, session.transaction():
        session.execute(
            "INSERT INTO mandate.decision_events (decision_id, intent, stage, actor, target, context, scope,"
            " timestamp, created_at, organization_id, domain, spec_id, spec_version)"
            " VALUES (%s, 'issue_refund', 'pre_commit', %s, %s, %s, %s,"
            " timestamptz '2025-01-01Z' + %s * interval '1 second',"
            " timestamptz '2026-01-01Z' + %s * interval '1 second', %s, 'finance', %s, %s)",
            (
                *(decision_id, actor, target_name, Jsonb(context), Jsonb(PROD)),
                *(number, number, ORGANIZATION, spec_id, spec_version),
            ),
        )
        session.execute(
            "INSERT INTO mandate.verdict_events (verdict_id, decision_id, snapshot_id, verdict,"
            " matched_policy_ids, timestamp, organization_id, domain, spec_id, spec_version)"
            " VALUES (gen_random_uuid(), %s, %s, %s, %s, now(), %s, 'finance', %s, %s)",
            (decision_id, SNAPSHOT, verdict, list(policies), ORGANIZATION, spec_id, spec_version),
        )
    return decision_id


def refund(amount: object, verified: object = True) -> dict[str, Any]:
    return {"amount": amount, "customer_verified": verified}


CANDIDATE = """
mandate: 1
organization: {name: %s}
domains:
  - domain: finance
    policies:
      - {id: stop, spec_id: finance.refund, scope_id: finance.default, verdict: BLOCK,
         conditions: [{field: amount, operator: '>=', value: 100}]}
      - {id: watch, spec_id: finance.refund, scope_id: finance.default, verdict: OBSERVE,
         conditions: [{field: amount, operator: '<', value: 10}]}
"""


def candidate_file(target: Target, tmp_path: Path) -> Path:
    with connect(target) as session:
        name = session.value(
            "SELECT name FROM mandate.organizations WHERE organization_id = %s", (ORGANIZATION,)
        )
    path = tmp_path / "policies.yaml"
    path.write_text(CANDIDATE % json.dumps(name), "utf-8")
    return path


def cells(document: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(cell["recorded"], cell["replayed"]): cell["decisions"] for cell in document["totals"]["matrix"]}


def test_the_matrix_and_the_list_are_exact(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    changed = [
        record(target, 1, "PAUSE", refund(600), actor=FORMULA, target_name='a "b",\r\nc\t\\N'),
        record(target, 2, "ALLOW", refund(100), actor="@x", target_name="+1"),
        record(target, 3, "ALLOW", refund(5), actor="ünïcödé ☃", target_name="-1"),
    ]
    record(target, 4, "ALLOW", refund(50))
    record(target, 5, "BLOCK", refund(700, False))
    changed.append(record(target, 6, "ALLOW", refund("fifty"), actor="\ttab"))
    record(target, 7, "ALLOW", refund(700), spec_id=None)
    broken = record(target, 8, "ALLOW", ["not an object"])
    path = candidate_file(target, tmp_path)
    common = ("replay", "--dsn", target.conninfo, "--jobs", "1", "--candidate", path)
    result = mandate(*common, "--format", "json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert cells(document) == {
        ("PAUSE", "BLOCK"): 1,
        ("ALLOW", "BLOCK"): 2,
        ("ALLOW", "OBSERVE"): 1,
        ("ALLOW", "ALLOW"): 1,
        ("BLOCK", "BLOCK"): 1,
    }
    assert [line["decision_id"] for line in document["decisions"]] == [*changed, broken]
    assert document["totals"]["reasons"] == [
        {"finding": "unattributed", "reason": "no spec is recorded", "decisions": 1},
        {"finding": "uncheckable", "reason": "its context is not an object", "decisions": 1},
    ]
    assert document["decisions"][0]["actor"] == FORMULA
    assert document["decisions"][0]["target"] == 'a "b",\r\nc\t\\N'
    assert document["decisions"][3]["replayed"]["failed_closed"]
    assert document["decisions"][3]["why"].endswith("signal amount is not a valid number")

    table = tmp_path / "changes.csv"
    result = mandate(*common, "--format", "csv", "--output", table, "--since", "2026-01-01T00:00:02Z")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    rows = list(csv.DictReader(io.StringIO(table.read_bytes().decode("utf-8"), newline="")))
    assert [row["decision_id"] for row in rows] == [*changed[1:], broken]
    assert [row["actor"] for row in rows] == ["'@x", "ünïcödé ☃", "'\ttab", "agent"]
    assert [row["target"] for row in rows] == ["'+1", "'-1", "t", "t"]
    assert [row["replayed_verdict"] for row in rows] == ["BLOCK", "OBSERVE", "BLOCK", ""]
    assert rows[0]["replayed_policies"] == "stop"
    result = mandate(*common, "--format", "csv", "--until", "2026-01-01T00:00:02Z")
    (row,) = csv.DictReader(io.StringIO(result.stdout, newline=""))
    assert row["actor"] == f"'{FORMULA}"
    result = mandate(*common)
    assert "[1]" in result.stdout
    told = "PAUSE is recorded, BLOCK comes out: stop matches\n  stop (BLOCK) matches\n"
    assert f"{told}    + amount >= 100, is 600" in result.stdout
    result = mandate(*common, "--intent", "nobody-asked")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("No decision is recorded that this is about: nothing was checked.\n")


@pytest.mark.parametrize("kind", ["v7-seeded", "v8-seeded"])
def test_the_policies_in_force_change_nothing(database: DatabaseFactory, tmp_path: Path, kind: str) -> None:
    """A candidate equal to the last snapshot: since that one, the matrix has a diagonal only."""
    target = database(kind)
    column = "domain_id" if kind.startswith("v7") else "domain"
    with connect(target) as session:
        row = session.row(
            sql.SQL(
                "SELECT p.policies, p.created_at, p.organization_id::text AS organization, count(*) AS n,"
                " min(v.timestamp) AS first FROM mandate.policy_snapshots p"
                " JOIN mandate.verdict_events v USING (snapshot_id) WHERE p.version ="
                " (SELECT max(version) FROM mandate.policy_snapshots o WHERE o.{0} = p.{0}"
                "  AND o.organization_id = p.organization_id)"
                " GROUP BY p.snapshot_id ORDER BY count(*) DESC, p.snapshot_id LIMIT 1"
            ).format(sql.Identifier(column))
        )
    assert row is not None
    path = tmp_path / "policies.json"
    path.write_text(json.dumps(row["policies"], indent=1), "utf-8")
    for since, same in ((row["created_at"].isoformat(), True), (None, False)):
        with replay(target, Request(path, since)) as report:
            assert all(old == new for old, new in report.totals.matrix) is same
            assert (report.totals.checked == row["n"]) is same


BROKEN: tuple[tuple[str, str], ...] = (
    ("[", "bad.yaml:2:1"),
    ("{}", "bad.yaml:1:1"),
    ("", "bad.yaml:1:1"),
    ("- id: p\n  spec_id: nope\n  scope_id: finance.default\n  verdict: BLOCK\n", "bad.yaml:2:"),
    ("- id: p\n  spec_id: finance.refund\n  scope_id: nowhere\n  verdict: BLOCK\n", "bad.yaml:3:"),
    ("- id: p\n  spec_id: finance.refund\n  scope_id: finance.default\n  verdict: block\n", "bad.yaml:4:"),
    (
        "- id: p\n  spec_id: finance.refund\n  scope_id: finance.default\n  verdict: BLOCK\n"
        "  conditions:\n  - {field: amout, operator: '>', value: 1}\n",
        "bad.yaml:6:",
    ),
    ("- &a [*a]\n", "bad.yaml:1:"),
    ("a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\n", "bad.yaml:"),
    ("[" * 5000, "bad.yaml:1:"),
    ("- !!python/object/apply:os.system ['true']\n", "bad.yaml:1:"),
)


def test_a_file_that_cannot_be_meant_names_the_place(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    path = tmp_path / "bad.yaml"
    for text, place in BROKEN:
        path.write_text(text, "utf-8")
        with pytest.raises(InvalidDocument) as caught, replay(target, Request(path)):
            pass
        assert place in caught.value.message, text
    path.write_bytes(b"- id: " + b"x" * 5_000_000)
    with pytest.raises(UsageError, match=r"bad\.yaml"), replay(target, Request(path)):
        pass
    for absent in (tmp_path / "none.yaml", tmp_path):
        result = mandate("replay", "--dsn", target.conninfo, "--candidate", absent, "--format", "json")
        assert result.returncode == 2
        assert str(absent) in json.loads(result.stdout)["error"]["message"]


def test_options_that_cannot_be_meant_are_refused(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8")
    wrong: tuple[dict[str, Any], ...] = (
        {"since": "yesterday"},
        {"since": "999999999w"},
        {"until": "2026-13-01"},
        {"domain": "nowhere"},
        {"domain": "\udcff"},
        {"organization": str(UUID(int=7))},
        {"jobs": 0},
        {"state": tmp_path / "none" / "state"},
    )
    for options in wrong:
        with pytest.raises(UsageError, match=next(iter(options))), replay(target, Request(**options)):
            pass
    with pytest.raises(NotMandate), replay(database("empty"), Request()):
        pass
    result = mandate("replay", "--dsn", target.conninfo, "--output", tmp_path)
    assert result.returncode == 2


def test_organization_domain_and_intent_narrow(database: DatabaseFactory) -> None:
    target = database("v7-seeded")
    with connect(target) as session:
        row = session.row(
            "SELECT d.organization_id::text AS organization, n.name, d.domain_id::text AS domain, d.intent,"
            " count(*) AS n FROM mandate.decision_events d JOIN mandate.domains n USING (domain_id)"
            " GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 4 LIMIT 1"
        )
    assert row is not None
    for domain in (row["name"], row["domain"]):
        request = Request(organization=row["organization"], domain=domain, intent=row["intent"])
        with replay(target, request) as report:
            assert report.totals.decisions == row["n"]


def everything_changes(target: Target, tmp_path: Path) -> Path:
    """Policies without any rule for the busiest domain: many verdicts would be others."""
    with connect(target) as session:
        row = session.row(
            "SELECT o.name, d.domain FROM mandate.decision_events d JOIN mandate.organizations o"
            " USING (organization_id) GROUP BY 1, 2 ORDER BY count(*) DESC LIMIT 1"
        )
    assert row is not None
    path = tmp_path / "none.yaml"
    name = json.dumps(row["name"])
    path.write_text(
        f"mandate: 1\norganization: {{name: {name}}}\ndomains: [{{domain: {row['domain']}, policies: []}}]\n"
    )
    return path


@pytest.mark.parametrize(
    ("stop", "jobs"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGKILL, 2)], ids=str
)
def test_a_stopped_replay_goes_on_to_the_same_result(
    database: DatabaseFactory, tmp_path: Path, stop: signal.Signals, jobs: int
) -> None:
    target = database("v8-seeded")
    state, candidate = tmp_path / "state", everything_changes(target, tmp_path)
    process = spawn(
        *("replay", "--dsn", target.conninfo, "--jobs", str(jobs), "--chunk", "4"),
        *("--candidate", candidate, "--state", state),
    )
    eventually(lambda: state.exists() and json.loads(state.read_bytes())["bytes"] > 0)
    children = psutil.Process(process.pid).children(recursive=True)
    # As a terminal does it: Ctrl-C goes to every process of the group.
    os.killpg(process.pid, stop) if stop is signal.SIGINT else process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if stop is signal.SIGINT else -signal.SIGKILL), errors
    assert "Traceback" not in errors
    assert stop is signal.SIGKILL or f"the same command goes on from {state}" in errors
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    stopped = json.loads(state.read_bytes())["totals"]["decisions"]
    # What was written after the last note of where it is does not count.
    with state.with_name("state.lines").open("ab") as lines:
        lines.write(b'{"half a')
    with replay(target, Request(candidate)) as whole:
        assert 0 < stopped < whole.totals.decisions
        assert whole.totals.findings["different"] > 0
        with replay(target, Request(candidate, state=state)) as resumed:
            assert resumed.resumed
            assert resumed.totals == whole.totals
            assert list(resumed.lines()) == list(whole.lines())
            resumed.finish()
    assert sorted(tmp_path.iterdir()) == [candidate]


def test_a_state_is_for_one_replay_at_a_time(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8-seeded")
    state = tmp_path / "state"
    with replay(target, Request(state=state)) as report:
        assert report.totals.decisions == HISTORY.decisions
        with pytest.raises(RunLocked), replay(target, Request(state=state)):
            pass
    # Not finished: the result never got to where it belongs. Going on finds nothing left to do.
    with replay(target, Request(state=state)) as again:
        assert again.resumed
        assert again.totals == report.totals
    document = json.loads(state.read_text())
    wrong: tuple[tuple[Callable[[], object], Request, str], ...] = (
        (lambda: None, Request(state=state, since="30d"), "since"),
        (lambda: state.with_name("state.lines").write_bytes(b""), Request(state=state), "state.lines"),
        (lambda: state.write_text("{"), Request(state=state), "cannot be resumed"),
        (lambda: state.write_text("[]"), Request(state=state), "not the state of a replay"),
        (lambda: state.write_text(json.dumps({**document, "totals": {}})), Request(state=state), "lacks"),
    )
    document["bytes"] = 1
    state.write_text(json.dumps(document))
    for prepare, request, said in wrong:
        prepare()
        with pytest.raises(UsageError, match=said), replay(target, request):
            pass


def test_a_process_that_is_killed_is_told_of(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v8-seeded")
    state = tmp_path / "state"
    argv = ("replay", "--dsn", target.conninfo, "--jobs", "2", "--chunk", "4", "--state", state)
    process = spawn(*argv)
    eventually(lambda: state.exists() and json.loads(state.read_bytes())["totals"]["decisions"] > 0)
    workers = [
        child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 9
    assert f"pid {workers[0].pid}" in errors
    assert "Traceback" not in errors
