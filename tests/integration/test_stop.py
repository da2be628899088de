"""Step stop: services are stopped, and pg_stat_activity proves that nobody else can write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from tests.servers import DatabaseFactory
from tests.stepping import RUN_ID, Lines, context

from mandate.errors import WriterConnected
from mandate.postgres import lock
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.runbook import writers
from mandate.runbook.steps.s10_stop import STEP

NAME = f"mandate-run-{RUN_ID}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait five seconds for a connection that the test keeps open on purpose."""
    real = writers.wait_until_gone
    monkeypatch.setattr(
        writers, "wait_until_gone", lambda *args, **kw: real(*args, **{**kw, "timeout_seconds": 0.3})
    )


def logs_in(tmp_path: Path) -> dict[str, Any]:
    return {"smoke": {"log_globs": [f"{tmp_path}/*.log"]}}


def test_nobody_connected_is_proven(
    any_postgres: EmbeddedServer, database: DatabaseFactory, tmp_path: Path
) -> None:
    (tmp_path / "serve.log").write_text("before\n")
    outcome = STEP.run(context(database("v7", server=any_postgres), tmp_path, logs_in(tmp_path)))
    assert outcome.evidence["writers"] == []
    assert outcome.evidence["services"] == {"kind": "none", "stopped": []}
    assert outcome.evidence["sees_everything"] is True
    assert outcome.evidence["log_offsets"][f"{tmp_path}/serve.log"]["size"] == 7
    assert any("services.kind is none" in warning for warning in outcome.warnings)


def test_a_connected_writer_is_named(
    any_postgres: EmbeddedServer, database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7", server=any_postgres)
    with connect(target, application_name="payroll") as other:
        other.execute("BEGIN")
        other.execute("SELECT 'card 4711', $tag$ secret $tag$, 1")
        with pytest.raises(WriterConnected) as caught:
            STEP.run(context(target, tmp_path, logs_in(tmp_path)))
        error = caught.value
        assert error.exit_code == 9
        assert f"pid {other.pid}: user postgres 'payroll' from " in error.message
        assert "idle in transaction since 20" in error.message
        assert "SELECT '…', '…', 1" in error.message
        assert "4711" not in str(error.as_dict())
        assert f"SELECT pg_terminate_backend({other.pid})" in str(error.hint)
        (writer,) = error.fields["evidence"]["writers"]
        assert (writer["pid"], writer["application"]) == (other.pid, "payroll")


def test_a_connection_that_is_closing_is_waited_for(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = database("v7")
    monkeypatch.undo()
    with connect(target, application_name=NAME) as session, connect(target) as other:
        assert len(writers.connected(session, NAME)) == 1
        closing = threading.Timer(0.3, other.close)
        closing.start()
        assert writers.wait_until_gone(session, NAME, timeout_seconds=20) == []
        closing.join()


def test_what_the_hint_says_does_end_it(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(target, application_name=NAME) as session, connect(target):
        (writer,) = writers.connected(session, NAME)
        session.execute(writer.how_to_end.encode())
        assert writers.wait_until_gone(session, NAME, timeout_seconds=20) == []


def test_sessions_of_this_run_and_its_lock_are_not_others(database: DatabaseFactory) -> None:
    target = database("v7")
    with (
        lock.held(target, "mandate-run on somewhere pid 1"),
        connect(target, application_name=NAME),
        connect(target, application_name=NAME) as session,
    ):
        assert writers.connected(session, NAME) == []
        with connect(target, application_name=f"{NAME}-not"):
            assert [one.application for one in writers.connected(session, NAME)] == [f"{NAME}-not"]


def test_another_database_does_not_count(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(database("empty")), connect(target, application_name=NAME) as session:
        assert writers.connected(session, NAME) == []


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        ("monitoring*", True),
        ("monitoring-?", True),
        ("*", True),
        ("monitoring", False),
        ("Monitoring*", False),
        ("monitoring-[0-9]", False),
        ("monitoring..", False),
        ("", False),
    ],
)
def test_ignored_applications(database: DatabaseFactory, tmp_path: Path, pattern: str, passes: bool) -> None:
    target = database("v7")
    settings = {**logs_in(tmp_path), "services": {"ignore_applications": [pattern]}}
    with connect(target, application_name="monitoring-1"):
        if passes:
            outcome = STEP.run(context(target, tmp_path, settings))
            assert [one["application"] for one in outcome.evidence["ignored"]] == ["monitoring-1"]
            assert "1 ignored as configured" in outcome.summary
        else:
            with pytest.raises(WriterConnected):
                STEP.run(context(target, tmp_path, settings))


def test_a_prepared_transaction_is_a_writer_even_when_everything_is_ignored(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7")
    gid = "it's half done"
    with connect(target) as session:
        session.execute("BEGIN")
        session.execute("CREATE TABLE mandate.half (n int)")
        session.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(gid)))
    settings = {**logs_in(tmp_path), "services": {"ignore_applications": ["*"]}}
    with pytest.raises(WriterConnected, match='prepared transaction "it\'s half done"') as caught:
        STEP.run(context(target, tmp_path, settings))
    assert "ROLLBACK PREPARED 'it''s half done'" in str(caught.value.hint)
    with connect(target, application_name=NAME) as session:
        (writer,) = writers.connected(session, NAME)
        session.execute(writer.how_to_end.encode())
        assert writers.connected(session, NAME) == []


@contextmanager
def plain_role(target: Target) -> Iterator[Target]:
    """A role that may connect and nothing more."""
    with connect(target) as session:
        session.execute("CREATE ROLE migrator LOGIN")
        try:
            yield Target({**target.parameters, "user": "migrator"}, target.source)
        finally:
            session.execute("DROP ROLE migrator")


def test_a_role_that_may_not_see_details_still_sees_that_somebody_is_there(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("v7", server=any_postgres)
    with plain_role(target) as limited, connect(limited, application_name=NAME) as session:
        assert not writers.sees_everything(session)
        with connect(target, application_name="payroll") as other:
            others = [one for one in writers.connected(session, NAME) if one.pid == other.pid]
            assert [(one.application, one.kind) for one in others] == [("payroll", "unknown")]
            error = writers.refusal(others, sees_all=False)
            assert "GRANT pg_read_all_stats" in str(error.hint)


def test_a_limited_role_is_told_that_it_is_limited(database: DatabaseFactory, tmp_path: Path) -> None:
    target = database("v7")
    with connect(target) as session:
        session.execute("CREATE ROLE watcher LOGIN")
    try:
        limited = Target({**target.parameters, "user": "watcher"}, target.source)
        outcome = STEP.run(context(limited, tmp_path, logs_in(tmp_path)))
        assert any("lacks pg_read_all_stats" in warning for warning in outcome.warnings)
    finally:
        with connect(target) as session:
            session.execute("DROP ROLE watcher")


def test_a_logical_replication_worker_is_a_writer(
    postgres: EmbeddedServer, postgres16: EmbeddedServer, database: DatabaseFactory
) -> None:
    """A subscription writes what another server says; no client needs to be connected for that."""
    source, target = database("v7", server=postgres16), database("v7", server=postgres)
    with ExitStack() as stack:
        publisher, subscriber = stack.enter_context(connect(source)), stack.enter_context(connect(target))
        publisher.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        subscriber.execute(
            sql.SQL(
                "CREATE SUBSCRIPTION mirror CONNECTION {} PUBLICATION everything WITH (copy_data = false)"
            ).format(sql.Literal(source.conninfo))
        )
        try:
            found = _wait_for_worker(subscriber)
            assert "logical replication" in found.kind
            assert "ALTER SUBSCRIPTION" in found.how_to_end
        finally:
            subscriber.execute("DROP SUBSCRIPTION mirror")


def _wait_for_worker(session: Session) -> writers.Writer:
    for _ in range(100):
        for writer in writers.connected(session, NAME):
            if writer.kind.startswith("logical replication"):
                return writer
        session.execute("SELECT pg_sleep(0.1)")
    raise AssertionError("no apply worker appeared")


def test_inside_a_transaction_the_answer_is_fresh(database: DatabaseFactory) -> None:
    target = database("v7")
    with connect(target, application_name=NAME) as session, session.transaction():
        assert writers.connected(session, NAME) == []
        with connect(target, application_name="late"):
            assert [one.application for one in writers.connected(session, NAME)] == ["late"]


def test_many_writers_are_counted_and_the_first_ten_shown(database: DatabaseFactory) -> None:
    target = database("v7")
    with ExitStack() as stack:
        session = stack.enter_context(connect(target, application_name=NAME))
        for number in range(12):
            stack.enter_context(connect(target, application_name=f"worker-{number}"))
        error = writers.refusal(writers.connected(session, NAME), sees_all=True)
    assert error.message.startswith("12 writers are still connected")
    assert "and 2 more" in error.message
    assert len(error.fields["writers"]) == 12


def test_kind_none_says_that_somebody_else_stops(database: DatabaseFactory, tmp_path: Path) -> None:
    here = context(database("v7"), tmp_path, logs_in(tmp_path))
    STEP.run(here)
    assert isinstance(here.reporter, Lines)
    assert any("somebody else stops the services" in line for line in here.reporter.lines)
