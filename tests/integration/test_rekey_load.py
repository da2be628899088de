"""A key change spares a busy server, says why it waits, and goes on by itself."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from tests.commands import mandate, spawn
from tests.servers import DatabaseFactory
from tests.shops import SHOP, TO_BIGINT, change, create

from mandate.errors import DatabaseError, MandateError
from mandate.postgres import programs
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.rekey import journal
from mandate.rekey.load import Limits
from mandate.rekey.signals import Line, Probe, Reader

pytestmark = pytest.mark.slow

T = TypeVar("T")
PATIENCE_SECONDS = 60.0
NOTHING_LIMITED = Limits(lag_seconds=None, lag_bytes=None, latency_ratio=None)


def until(find: Callable[[], T | None]) -> T:
    """What `find` returns as soon as it is true."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := find():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came to that")


def observer(target: Target) -> Session:
    """A session that does not count as a client's."""
    return connect(target, application_name="mandate-test")


def waiting(session: Session) -> str:
    return (journal.waiting(session, "shop") or "") if journal.exists(session) else ""


def reason(session: Session) -> str:
    progress = journal.progress(session, "shop")
    return str(progress["reason"]) if progress else ""


@contextmanager
def running(target: Target, limits: Limits) -> Iterator[threading.Thread]:
    """A run in a thread, which has to get to its end once the block is over."""
    engine = change(target, TO_BIGINT)
    limited = replace(engine, options=replace(engine.options, limits=limits))
    failed: list[MandateError] = []

    def run() -> None:
        try:
            limited.run()
        except MandateError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE_SECONDS)
    assert failed == []
    assert not thread.is_alive()


@contextmanager
def busy(target: Target) -> Iterator[None]:
    """A client whose statement takes as long as the block."""
    with connect(target, application_name="shop") as session:
        thread = threading.Thread(target=_work, args=(session,))
        thread.start()
        with observer(target) as other:
            until(
                lambda: other.value("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'")
            )
        try:
            yield
        finally:
            session.cancel()
            thread.join()


def _work(session: Session) -> None:
    with pytest.raises(DatabaseError, match="canceling statement due to user request"):
        session.execute("SELECT pg_sleep(600)")


def shown_until(process: subprocess.Popen[str], text: str) -> str:
    """What a process prints, up to the line that starts with `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if line.startswith(text):
            return seen
    raise AssertionError(f"it ended without saying so:\n{seen}")


@pytest.fixture
def shop(database: DatabaseFactory) -> Target:
    target = database("empty")
    create(target, SHOP)
    return target


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(TO_BIGINT)
    return path


def test_too_many_sessions_stop_a_run_until_they_are_gone_and_everybody_sees_why(
    shop: Target, spec: Path
) -> None:
    env = {"DATABASE_URL": shop.conninfo}
    with busy(shop), observer(shop) as session:
        run = spawn("rekey", "run", spec, "--max-sessions", "0", env=env)
        until(lambda: "1 active sessions, limit 0" in waiting(session))
        until(lambda: "1 active sessions" in reason(session))
        assert journal.done(session, "shop") == frozenset()
        watch = spawn("rekey", "status", spec, "--watch", "--interval", "0.2", env=env)
        seen = shown_until(watch, "waits:    the server comes first: 1 active sessions, limit 0")
        assert "throttle: works 0% of the time: 1 active sessions, limit 0" in seen
        data = json.loads(mandate("rekey", "status", spec, "--format", "json", env=env).stdout)
        assert data["progress"]["share"] == 0
        assert data["progress"]["signals"]["sessions"] == 1
        assert data["progress"]["eta_seconds"] > 0
        assert run.poll() is None
    errors = run.communicate(timeout=PATIENCE_SECONDS)[1]
    assert run.returncode == 0, errors
    shown = watch.communicate(timeout=PATIENCE_SECONDS)[0]
    assert watch.returncode == 0
    assert shown.rstrip().splitlines()[-1].startswith("  cutover")
    with observer(shop) as session:
        assert waiting(session) == ""


@pytest.fixture
def owner(shop: Target) -> Iterator[Target]:
    """The shop as a role sees it that owns it and may not see what others do."""
    name = f"keeper_{uuid4().hex[:8]}"
    role, base = sql.Identifier(name), sql.Identifier(shop.database)
    with connect(shop) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        session.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(base, role))
        session.execute(sql.SQL("ALTER SCHEMA shop OWNER TO {}").format(role))
        for table in ("customers", "orders", "lines", "returns", "untouched"):
            session.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.Identifier("shop", table), role))
    yield Target({**shop.parameters, "user": name}, "test")
    with connect(shop) as session:
        session.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
        session.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_signal_that_may_not_be_read_stops_a_run_until_it_may(shop: Target, owner: Target) -> None:
    limits = replace(NOTHING_LIMITED, sessions=5)
    with busy(shop), running(owner, limits) as thread, observer(shop) as session:
        until(lambda: "cannot read active sessions: permission denied" in waiting(session))
        assert "pg_monitor" in waiting(session)
        assert thread.is_alive()
        assert journal.done(session, "shop") == frozenset()
        session.execute(sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(owner.parameters["user"])))
        until(lambda: "cutover" in journal.done(session, "shop"))


def test_a_probe_without_answer_stops_a_run_until_it_has_one(shop: Target) -> None:
    with observer(shop) as session, observer(shop) as locker:
        journal.ensure(session)
        with running(shop, Limits(latency=60_000)):
            until(lambda: journal.ask(session, "shop", hold_cutover=True))
            until(lambda: "is held" in waiting(session))
            with locker.transaction():
                locker.execute("LOCK TABLE mandate_rekey_shop.probe IN ACCESS EXCLUSIVE MODE")
                until(
                    lambda: (
                        "cannot read latency: canceling statement due to statement timeout" in reason(session)
                    )
                )
            until(lambda: reason(session).startswith("speeding up"))
            journal.ask(session, "shop", hold_cutover=False)


# -- signals -----------------------------------------------------------------------------------------


def test_a_lost_session_is_unreadable_once_and_opened_again(shop: Target) -> None:
    with observer(shop) as killer:
        reader = Reader(Line(lambda: connect(shop, application_name="mandate-load-x")))
        assert reader.read().unreadable == {}
        killer.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'mandate-load-x'"
        )
        assert reader.read().unreadable
        assert reader.read().unreadable == {}
        reader.line.close()


def test_the_wal_rate_is_what_was_written_since(shop: Target) -> None:
    with observer(shop) as session:
        reader = Reader(Line(lambda: observer(shop)))
        reader.read()
        quiet = reader.read().wal_rate
        session.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        assert reader.read().wal_rate > quiet + 1_000_000
        reader.line.close()


def test_only_clients_that_work_are_counted(shop: Target) -> None:
    with observer(shop) as session, connect(shop, application_name="idle one"):
        reader = Reader(Line(lambda: session))
        assert reader.read().sessions == 0
        with busy(shop):
            assert reader.read().sessions == 1


@contextmanager
def receiver(target: Target, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Something that replicates."""
    program = programs.find("pg_receivewal", 18)
    process = subprocess.Popen(
        [program, "--directory", directory, "--no-loop"], env=programs.environment(target)
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_standby_that_stands_still_lags(shop: Target, open_directory: Path) -> None:
    with observer(shop) as session, receiver(shop, open_directory) as standby:
        reader = Reader(Line(lambda: session))
        until(lambda: session.value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"))
        standby.send_signal(signal.SIGSTOP)
        session.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)")
        assert reader.read().lag_bytes > 20_000_000


def test_a_probe_commits_a_row(shop: Target) -> None:
    with observer(shop) as session:
        session.execute("CREATE TABLE probe (at timestamptz NOT NULL DEFAULT clock_timestamp())")
        probe = Probe(Line(lambda: session), sql.Identifier("public", "probe"))
        assert probe.milliseconds() > 0
        assert session.value("SELECT count(*) FROM probe") == 1


def test_a_record_of_an_older_version_has_no_progress_and_gets_some(shop: Target) -> None:
    with observer(shop) as session:
        journal.ensure(session)
        session.execute("DROP TABLE mandate_conductor.rekey_progress")
        assert journal.progress(session, "shop") is None
        with running(shop, Limits(latency=60_000)):
            pass
        assert journal.progress(session, "shop") is not None
