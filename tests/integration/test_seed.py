"""`mandate db seed` into real databases of both versions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from tests.servers import DatabaseFactory

from mandate.controlplane.seed import OtherRows, Parameters, Summary, load
from mandate.controlplane.seed import load as _load_function
from mandate.controlplane.seed.schema import LARGE
from mandate.errors import CheckFailed, LockNotAvailable, NotMandate, RunLocked
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.postgres.script import Statement, read

MIGRATION_008 = Path(__file__).parents[2] / "migrations" / "008_rfc002_domain_identity_migration.sql"
EXAMPLE = "00000000-0000-0000-0000-000000000001"
SMALL = Parameters(1500)
FAST, SLOW = "bulk", "rows"
TABLES = ("organizations", "domains", "scopes", "policy_snapshots", "mandate_specs", *LARGE)


@pytest.fixture(params=[FAST, SLOW])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of loading."""
    choose(monkeypatch, request.param)
    return str(request.param)


def choose(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    module = sys.modules[_load_function.__module__]
    monkeypatch.setattr(module, "BULK_FROM_DECISIONS", 1 if method == FAST else 10**9)


def migrate(target: Target) -> None:
    with connect(target) as session:
        for part in read(MIGRATION_008):
            if isinstance(part, Statement):
                session.execute(part.sql.encode())


def rows(target: Target, table: str) -> list[dict[str, Any]]:
    """Seeded rows, in a settled order, without what the clock of a migration wrote."""
    with connect(target) as session:
        found = session.rows(
            sql.SQL(
                "SELECT to_jsonb(t) - 'migrated_at' AS row FROM mandate.{} t"
                " WHERE organization_id IS DISTINCT FROM %s ORDER BY (to_jsonb(t) - 'migrated_at')::text"
            ).format(sql.Identifier(table)),
            (EXAMPLE,),
        )
    return [row["row"] for row in found]


def count(target: Target, table: str) -> int:
    with connect(target) as session:
        return int(session.value(sql.SQL("SELECT count(*) FROM mandate.{}").format(sql.Identifier(table))))


def definitions(session: Session) -> list[str]:
    """Every index, constraint and trigger of the schema, and whether it is valid."""
    found = session.rows(
        "SELECT format('%s %s', pg_get_indexdef(indexrelid), indisvalid) AS what"
        " FROM pg_index i JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'mandate'::regnamespace"
        " UNION ALL SELECT format('%s %s %s', conrelid::regclass, conname, convalidated)"
        " || pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE connamespace = 'mandate'::regnamespace"
        " UNION ALL SELECT format('%s %s %s', tgrelid::regclass, pg_get_triggerdef(oid), tgenabled)"
        " FROM pg_trigger WHERE NOT tgisinternal"
        " UNION ALL SELECT format('%s %s', objoid::regclass, description) FROM pg_description"
        " WHERE classoid = 'pg_class'::regclass AND description = 'asked for by audit'"
        " ORDER BY 1"
    )
    return [row["what"] for row in found]


def test_version_7_migrated_equals_version_8_seeded(
    any_postgres: EmbeddedServer, database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, FAST)
    old, new = database("v7", server=any_postgres), database("v8", server=any_postgres)
    assert (load(old, SMALL).version, load(new, SMALL).version) == (7, 8)
    migrate(old)
    for table in (*TABLES, "identity_map"):
        migrated, seeded = rows(old, table), rows(new, table)
        assert migrated == seeded, table
        assert migrated, table


def test_both_methods_leave_the_same_rows_and_definitions(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("v7", "v8"):
        fast, slow = database(kind), database(kind)
        with connect(fast) as session:
            before = definitions(session)
        for target, method in ((fast, FAST), (slow, SLOW)):
            choose(monkeypatch, method)
            summary = load(target, SMALL)
            assert summary.method == method
            assert {table: count(target, table) - examples(table) for table in summary.rows} == summary.rows
            with connect(target) as session:
                assert definitions(session) == before
        assert [rows(fast, table) for table in TABLES] == [rows(slow, table) for table in TABLES]


def examples(table: str) -> int:
    """Rows that migrations 003, 004 and 006 bring."""
    counts = {"organizations": 1, "domains": 5, "scopes": 6, "policy_snapshots": 4, "mandate_specs": 3}
    return {**counts, "identity_map": 11}.get(table, 0)


def test_the_record_holds_together(database: DatabaseFactory) -> None:
    target = database("v7")
    summary = load(target, SMALL)
    assert summary.rows["decision_events"] == summary.rows["verdict_events"] == 1500
    with connect(target) as session:
        assert session.value(
            "SELECT count(*) FROM decision_events JOIN domains USING (domain_id) WHERE name = 'finance'"
        )
        assert not session.value(
            "SELECT count(*) FROM verdict_events v JOIN decision_events d USING (decision_id)"
            " JOIN scopes s ON s.scope_id = v.scope_id JOIN domains n ON n.domain_id = v.domain_id"
            " WHERE (v.domain_id, v.organization_id) IS DISTINCT FROM (d.domain_id, d.organization_id)"
            " OR s.domain_id <> v.domain_id OR v.domain <> n.name OR v.owning_team <> s.owning_team"
        )
        assert not session.value(
            "SELECT count(*) FROM policy_snapshots, jsonb_array_elements(policies) p"
            " WHERE NOT EXISTS (SELECT FROM scopes WHERE scope_id::text = p ->> 'scope_id')"
        )
        assert not session.value(
            "SELECT count(*) FROM decision_events WHERE NOT EXISTS (SELECT FROM mandate_specs s"
            " WHERE (s.spec_id, s.version) = (decision_events.spec_id, decision_events.spec_version))"
        )


def test_the_same_again_changes_nothing(database: DatabaseFactory) -> None:
    target = database("v7")
    load(target, SMALL)
    before = [rows(target, table) for table in TABLES]
    for append in (False, True):
        again = load(target, SMALL, append=append)
        assert again.already
        assert again.rows == {}
    assert [rows(target, table) for table in TABLES] == before


def test_the_same_again_after_the_migration_changes_nothing(database: DatabaseFactory) -> None:
    target = database("v7")
    load(target, SMALL)
    migrate(target)
    assert load(target, SMALL).already
    assert count(target, "decision_events") == 1500


@pytest.mark.parametrize("kind", ["v7", "v8"])
def test_another_history_only_with_append(
    database: DatabaseFactory, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, FAST)
    target, other = database(kind), Parameters(700, seed=2)
    load(target, SMALL)
    with pytest.raises(OtherRows, match="--seed 1") as refused:
        load(target, other)
    assert refused.value.exit_code == 3
    assert count(target, "decision_events") == 1500
    added = load(target, other, append=True)
    assert added.method == SLOW
    assert count(target, "decision_events") == 2200
    if kind == "v7":
        migrate(target)
    with connect(target) as session:
        assert session.value("SELECT count(*) FROM mandate.scopes WHERE scope_id ~ '[.]default$'") >= 1
        assert session.value("SELECT count(*) FROM mandate.organizations") == 7


def test_decisions_that_were_not_seeded_are_not_mixed_with_generated_ones(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(target) as session:
        session.execute(
            "INSERT INTO decision_events (decision_id, intent, stage, actor, target, timestamp)"
            " VALUES (gen_random_uuid(), 'pay', 'proposed', 'a', 't', now())"
        )
    with pytest.raises(OtherRows, match="decisions that were not seeded"):
        load(target, SMALL)
    assert count(target, "organizations") == 1
    assert load(target, SMALL, append=True).rows["decision_events"] == 1500


@pytest.mark.parametrize("seed", ["--without-examples", "--with-a-scope-of-no-selectors"])
def test_whatever_examples_there_are(database: DatabaseFactory, seed: str) -> None:
    target = database("v7")
    with connect(target) as session:
        if seed == "--without-examples":
            session.execute(
                "TRUNCATE mandate.policy_snapshots, mandate.scopes, mandate.domains, mandate.organizations,"
                " mandate.mandate_specs CASCADE"
            )
        else:
            session.execute("INSERT INTO scopes (scope_id) VALUES (gen_random_uuid())")
    assert load(target, SMALL).rows["decision_events"] == 1500


def test_rows_that_are_in_the_way_are_named_and_nothing_changes(database: DatabaseFactory) -> None:
    target, twin = database("v7"), database("v7")
    load(twin, SMALL)
    with connect(twin) as session:
        name = session.value("SELECT name FROM organizations WHERE metadata ? 'seeded' ORDER BY name LIMIT 1")
    with connect(target) as session:
        session.execute("INSERT INTO organizations (name) VALUES (%s)", (name,))
    with pytest.raises(CheckFailed, match=name) as refused:
        load(target, SMALL)
    assert "another --seed" in (refused.value.hint or "")
    assert [count(target, table) for table in ("organizations", *LARGE)] == [2, 0, 0, 0]


def test_a_database_that_is_not_mandates(database: DatabaseFactory) -> None:
    target = database("empty")
    with pytest.raises(NotMandate, match="is not a Mandate database"):
        load(target, SMALL)
    with connect(target) as session:
        session.execute("CREATE SCHEMA mandate")
        session.execute("CREATE TABLE mandate.domains (domain text)")
    with pytest.raises(NotMandate, match=r"no table mandate\.organizations"):
        load(target, SMALL)


def test_a_version_that_is_neither_7_nor_8(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(target) as session:
        session.execute("ALTER TABLE mandate.decision_events DROP COLUMN domain_id")
    with pytest.raises(NotMandate, match="neither version 7's nor version 8's"):
        load(target, SMALL)


def test_what_cannot_be_put_back_stays(database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, FAST)
    target = database("v7")
    with connect(target) as session:
        for statement in (
            "COMMENT ON INDEX mandate.idx_decision_events_actor IS 'asked for by audit'",
            "CREATE TABLE mandate.notes (decision_id uuid REFERENCES mandate.decision_events, note text)",
            "CREATE VIEW public.per_decision AS SELECT decision_id, intent FROM mandate.decision_events"
            " GROUP BY decision_id",
            'CREATE INDEX "Odd ""name" ON mandate.verdict_events ((lower(domain))) WHERE domain <> \'%s\'',
            "ALTER INDEX mandate.idx_verdict_events_domain SET (fillfactor = 70)",
        ):
            session.execute(statement.encode())
        before = definitions(session)
    assert load(target, SMALL).method == FAST
    with connect(target) as session:
        assert definitions(session) == before


def test_a_role_that_does_not_own_the_tables(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, FAST)
    target = database("v7")
    with connect(target) as session:
        session.execute("DROP ROLE IF EXISTS seeder")
        session.execute("CREATE ROLE seeder LOGIN")
        session.execute("GRANT USAGE ON SCHEMA mandate TO seeder")
        session.execute("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA mandate TO seeder")
    summary = load(Target({**target.parameters, "user": "seeder"}), SMALL)
    assert summary.method == SLOW
    assert count(target, "decision_events") == 1500


def test_two_at_once(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(target) as session, session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(%s)", (0x6D616E64_73656564,))
        with pytest.raises(RunLocked, match="another `mandate db seed`"):
            load(target, SMALL)
    assert count(target, "organizations") == 1


def test_tables_that_somebody_uses(database: DatabaseFactory, method: str) -> None:
    target = database("v7")
    with connect(target) as session, session.transaction():
        session.execute("LOCK TABLE mandate.verdict_events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LockNotAvailable) as refused:
            load(target, SMALL, lock_timeout_seconds=0.05)
    assert "nothing was changed" in (refused.value.hint or "")
    assert count(target, "organizations") == 1


@pytest.mark.parametrize(
    ("how", "code", "during"),
    [
        (signal.SIGKILL, -9, "COPY"),
        (signal.SIGKILL, -9, "CREATE INDEX"),
        (signal.SIGINT, 130, "COPY"),
        (signal.SIGTERM, 143, "CREATE INDEX"),
    ],
)
def test_killed_half_way_nothing_is_left(
    database: DatabaseFactory, how: signal.Signals, code: int, during: str
) -> None:
    target = database("v7")
    with connect(target) as session:
        before = definitions(session)
        process = subprocess.Popen(
            [*MANDATE, "--decisions", "20000", "--dsn", target.conninfo],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(session, during)
        process.send_signal(how)
        assert process.wait(60) == code
        wait_for(session, None)
        assert definitions(session) == before
    assert [count(target, table) for table in ("organizations", *LARGE)] == [1, 0, 0, 0]
    assert size(target) == 0
    assert load(target, SMALL).rows["decision_events"] == 1500


def size(target: Target) -> int:
    """Bytes of the large tables' heaps."""
    with connect(target) as session:
        return sum(
            int(session.value("SELECT pg_relation_size(to_regclass(%s))", (f"mandate.{table}",)))
            for table in LARGE
        )


def wait_for(session: Session, statement: str | None) -> None:
    """Until the seeding session runs such a statement, or (None) is gone."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = session.rows(
            "SELECT query FROM pg_stat_activity WHERE application_name = 'mandate-db-seed'"
            " AND datname = current_database()"
        )
        if statement is None and not found:
            return
        if statement and any(row["query"].startswith(statement) for row in found):
            return
        time.sleep(0.01)
    raise AssertionError(f"never saw {statement}")


MANDATE = (sys.executable, "-c", "from mandate.cli import main; main()", "db", "seed")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CI": "true"}
    return subprocess.run(
        [*MANDATE, *arguments], capture_output=True, text=True, check=False, env=environment
    )


def test_command_as_json_and_as_text(database: DatabaseFactory) -> None:
    target = database("v8")
    arguments = (
        "--decisions",
        "900",
        "--domains",
        "3",
        "--skew",
        "0.5",
        "--seed",
        "7",
        "--dsn",
        target.conninfo,
    )
    first = run(*arguments, "--format", "json")
    document = json.loads(first.stdout)
    assert (first.returncode, first.stderr) == (0, "")
    assert document["schema"] == "mandate.seed/1"
    assert (document["version"], document["already"], document["rows"]["decision_events"]) == (8, False, 900)
    assert document["total_rows"] == sum(document["rows"].values())
    assert document["rows_per_second"] > 0
    assert document["parameters"]["seed"] == 7
    again = run(*arguments)
    assert (again.returncode, "nothing was changed" in again.stdout) == (0, True)


def test_text_fits_eighty_columns(database: DatabaseFactory) -> None:
    done = run("--decisions", "300", "--dsn", database("v7").conninfo)
    assert done.returncode == 0
    assert "decision_events" in done.stdout
    assert "rows/s" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments",
    [
        ("--decisions", "0"), ("--decisions", "-5"), ("--decisions", "many"), ("--decisions", "9" * 30),
        ("--domains", "0"), ("--domains", "100000"), ("--skew", "-1"), ("--skew", "nan"), ("--skew", "inf"),
        ("--until", "soon"), ("--days", "0"), ("--seed", "9" * 40),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_meant(arguments: tuple[str, ...]) -> None:
    # Port 1 answers nobody: a refusal that needs no database comes first.
    done = run(*arguments, "--dsn", "host=localhost port=1")
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server(tmp_path: Path) -> None:
    done = run("--decisions", "5", "--dsn", "host=localhost port=1 user=postgres", "--format", "json")
    assert json.loads(done.stdout)["error"]["code"] == "database-unavailable"
    assert done.returncode == 9


def test_summary_of_nothing() -> None:
    summary = Summary("x", 7, SMALL, True, "none", {}, {})
    assert summary.as_dict()["rows_per_second"] is None
