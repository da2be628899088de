"""`mandate serve` as a process: where it listens, how it starts and ends, what it survives."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import pwd
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from psycopg import sql
from tests.commands import as_user, mandate, spawn
from tests.servers import UNSAFE_AND_FAST, DatabaseFactory, temporary_directory
from tests.serving import Answer, Service, eventually, migrate_with_psql, serving
from tests.stepping import add_decisions

from mandate.controlplane import logs
from mandate.errors import DatabaseError
from mandate.postgres import embedded
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.postgres.pool import Pool


@pytest.fixture
def v7(database: DatabaseFactory) -> Target:
    target = database("v7")
    add_decisions(target, "finance", 3)
    return target


@contextmanager
def locked(target: Target, table: str) -> Iterator[Session]:
    """Nobody can read the table until the block ends."""
    with connect(target) as session, session.transaction():
        session.execute(
            sql.SQL("LOCK TABLE mandate.{} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table))
        )
        yield session


def waiting(target: Target) -> int:
    """How many sessions of the service wait for a lock."""
    with connect(target) as session:
        return int(
            session.value(
                b"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                b" AND application_name = 'mandate-serve' AND wait_event_type = 'Lock'"
            )
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1"])
def test_only_loopback_is_listened_on(host: str, tmp_path: Path) -> None:
    done = mandate("serve", "--host", host, "--port", "0", "--log-dir", tmp_path, "--dsn", "host=localhost")
    assert done.returncode == 2
    assert "without configured tokens the server binds to loopback only" in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_host_that_nobody_knows_is_a_usage_error(tmp_path: Path) -> None:
    done = mandate("serve", "--host", "no.such.host.invalid", "--port", "0", "--log-dir", tmp_path)
    assert done.returncode == 2
    assert "is not an address of this machine" in " ".join(done.stderr.split())


def test_localhost_means_every_loopback_address(v7: Target, tmp_path: Path) -> None:
    with serving(v7, tmp_path, "--host", "localhost") as service:
        families = {family for family, *_ in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
        for family in families:
            address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
            with socket.create_connection((address, service.port), timeout=10):
                pass


def test_a_port_that_is_taken_is_said_with_its_holder(v7: Target, tmp_path: Path) -> None:
    with serving(v7, tmp_path, "--pid-file", tmp_path / "pid") as service:
        done = mandate("serve", "--port", str(service.port), "--log-dir", tmp_path, "--dsn", v7.conninfo)
        assert done.returncode == 9
        assert f"port {service.port} on 127.0.0.1 is taken by" in done.stderr
        assert f"(pid {service.pid})" in done.stderr
        assert (tmp_path / "pid").read_text() == f"{service.pid}\n"
        second = mandate(
            *("serve", "--port", "0", "--log-dir", tmp_path, "--dsn", v7.conninfo),
            *("--pid-file", tmp_path / "pid"),
        )
        assert second.returncode == 9
        assert f"already runs as pid {service.pid}" in " ".join(second.stderr.split())
        assert service.get("/readyz").status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(v7: Target, tmp_path: Path, number: signal.Signals) -> None:
    with serving(v7, tmp_path, "--pid-file", tmp_path / "run" / "pid") as service:
        assert service.get("/api/decisions").status == 200
        os.kill(service.pid, number)
        assert service.process.wait(60) == 0
    assert list((tmp_path / "run").iterdir()) == []
    events = [line["event"] for line in service.log()]
    assert "listening" in events
    assert events[-1].startswith("Finished server process")
    assert not re.search("(?i)error|exception|fail", service.log_file.read_text())


def test_what_is_in_flight_is_finished_before_the_end(v7: Target, tmp_path: Path) -> None:
    with serving(v7, tmp_path) as service, ThreadPoolExecutor() as threads:
        with locked(v7, "decision_events"):
            asked = threads.submit(service.get, "/api/decisions")
            eventually(lambda: waiting(v7))
            os.kill(service.pid, signal.SIGTERM)
            eventually(lambda: any(line["event"] == "Shutting down" for line in service.log()))
            assert service.process.poll() is None
        answer = asked.result(60)
        assert (answer.status, len(answer.json["decisions"])) == (200, 3)
        assert service.process.wait(60) == 0


@pytest.mark.parametrize("left", ["", "garbage", "1", "99999999999999999999", str(2**22 + 1)])
def test_a_pid_file_that_somebody_left_is_replaced(v7: Target, tmp_path: Path, left: str) -> None:
    (tmp_path / "pid").write_text(left)
    with serving(v7, tmp_path / "log", "--pid-file", tmp_path / "pid") as service:
        assert (tmp_path / "pid").read_text() == f"{service.pid}\n"


def test_a_pid_file_or_log_that_cannot_be_written_is_said(v7: Target, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = ("serve", "--port", "0", "--dsn", v7.conninfo)
    done = mandate(*given, "--log-dir", tmp_path, "--pid-file", tmp_path / "file" / "pid")
    assert (done.returncode, "cannot be written" in done.stderr) == (2, True)
    done = mandate(*given, "--log-dir", tmp_path / "file" / "log")
    assert (done.returncode, "no log can be written" in done.stderr) == (2, True)


@pytest.mark.parametrize("dsn", ["postgresql://[", "host=localhost nonsense"])
def test_a_dsn_that_cannot_be_meant_stops_the_start(dsn: str, tmp_path: Path) -> None:
    done = mandate("serve", "--port", "0", "--dsn", dsn, "--log-dir", tmp_path)
    assert done.returncode == 2


def test_it_comes_up_before_its_database(database: DatabaseFactory, tmp_path: Path) -> None:
    there = database("v8")
    with serving(there.with_database(f"{there.database}_later"), tmp_path) as service:
        assert service.get("/healthz").status == 200
        for path in ("/readyz", "/api/health", "/api/decisions"):
            answer = service.get(path)
            assert (answer.status, answer.problem) == (503, "database-unavailable")
            assert answer.headers["retry-after"] == "2"
        with connect(there.with_database("postgres")) as session:
            names = sql.Identifier(there.database), sql.Identifier(f"{there.database}_later")
            session.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*names))
            eventually(lambda: service.get("/readyz").status == 200)
            assert service.get("/api/decisions").json == {"decisions": [], "next_cursor": None}
            assert service.stop() == 0
            session.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*reversed(names)))


def test_the_embedded_server_may_come_later(open_directory: Path, tmp_path: Path) -> None:
    place = open_directory / "pg"
    with _embedded_service(place, tmp_path) as service:
        assert service.get("/readyz").problem == "database-unavailable"
        embedded.start(place, port=0, options=UNSAFE_AND_FAST)
        try:
            # No schema yet: reachable, and not something to answer from.
            eventually(lambda: service.get("/readyz").problem == "schema-unknown")
            assert service.get("/api/decisions").problem == "schema-unknown"
        finally:
            embedded.stop(place, mode="immediate")


@contextmanager
def _embedded_service(place: Path, log_dir: Path) -> Iterator[Service]:
    given = ("serve", "--port", "0", "--data-dir", place, "--log-dir", log_dir, "--format", "json")
    with spawn(*given) as process:
        try:
            assert process.stdout is not None
            yield Service(process, json.loads(process.stdout.readline()))
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgresql_goes_and_comes_back(tmp_path: Path, mode: str) -> None:
    with temporary_directory() as place:
        server = embedded.start(place / "pg", port=0, options=UNSAFE_AND_FAST)
        try:
            with serving(server.target("postgres"), tmp_path) as service:
                assert service.get("/readyz").problem == "schema-unknown"
                embedded.stop(place / "pg", mode=mode)
                answer = service.get("/api/decisions")
                assert (answer.status, answer.problem) == (503, "database-unavailable")
                assert service.get("/healthz").status == 200
                embedded.start(place / "pg", port=server.port, options=UNSAFE_AND_FAST)
                assert service.get("/readyz").problem == "schema-unknown"
                assert service.stop() == 0
        finally:
            embedded.stop(place / "pg", mode="immediate")


def test_connections_that_are_killed_are_nobody_s_trouble(v7: Target, tmp_path: Path) -> None:
    with serving(v7, tmp_path) as service, connect(v7) as session:
        for _ in range(5):
            assert service.get("/api/decisions").status == 200
            ended = session.rows(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                b" WHERE datname = current_database() AND application_name = 'mandate-serve'"
            )
            assert ended
        assert service.get("/api/decisions").status == 200


def test_a_statement_cut_off_by_a_lost_connection_runs_again(v7: Target, tmp_path: Path) -> None:
    with serving(v7, tmp_path) as service, ThreadPoolExecutor() as threads:
        with locked(v7, "decision_events") as session:
            asked = threads.submit(service.get, "/api/decisions")
            eventually(lambda: waiting(v7))
            session.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                b" WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        assert asked.result(60).status == 200


@pytest.mark.parametrize("major", [18, 16])
def test_a_migration_under_its_feet(
    major: int, database: DatabaseFactory, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: EmbeddedServer = request.getfixturevalue({18: "postgres", 16: "postgres16"}[major])
    target = database("v7", server=server)
    for domain in ("finance", "hr"):
        add_decisions(target, domain, 30)
    with serving(target, tmp_path) as service:
        paths = ("/api/decisions?domain=finance", "/api/verdicts?limit=500", "/api/domains", "/api/decisions")
        before = {path: service.rows(path) for path in paths}
        first = service.get("/api/decisions?limit=10").json
        answers = _while(lambda: migrate_with_psql(target), service, paths)
        assert {answer.status for answer in answers} == {200}, {a.body for a in answers if a.status != 200}
        assert service.get("/readyz").json["schema_version"] == 8
        assert {path: service.rows(path) for path in paths} == before
        # A reader who was half-way through goes on where he was.
        rest = service.rows("/api/decisions", first["next_cursor"])
        assert first["decisions"] + rest == before["/api/decisions"]
        assert service.stop() == 0
        assert not re.search("(?i)error|exception|fail", service.log_file.read_text())


def _while(work: Callable[[], None], service: Service, paths: tuple[str, ...]) -> list[Answer]:
    """The answers to requests that four clients make for as long as `work` takes."""
    done = threading.Event()

    def client(at: int) -> list[Answer]:
        answers = []
        while not done.is_set():
            answers.append(service.get(paths[at % len(paths)]))
            at += 1
        return answers

    with ThreadPoolExecutor() as threads:
        clients = [threads.submit(client, at) for at in range(4)]
        try:
            work()
        finally:
            done.set()
        return [answer for each in clients for answer in each.result(120)]


def test_a_rollback_to_version_7_under_its_feet(database: DatabaseFactory, tmp_path: Path) -> None:
    """The way `mandate rollback` swaps: by renaming, with nobody connected."""
    old, new = database("v7"), database("v8")
    add_decisions(old, "finance", 2)
    with connect(old) as session:  # what a database in the field may have
        for table in ("domains", "decision_events"):
            session.execute(sql.SQL("ALTER TABLE mandate.{} ADD domain text").format(sql.Identifier(table)))
    with serving(new, tmp_path) as service, connect(new.with_database("postgres")) as session:
        assert service.get("/api/decisions?domain=finance").json["decisions"] == []
        names = {key: sql.Identifier(name) for key, name in (("old", old.database), ("new", new.database))}
        session.execute(sql.SQL("ALTER DATABASE {new} ALLOW_CONNECTIONS false").format(**names))
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (new.database,)
        )
        with session.transaction():
            session.execute(sql.SQL("ALTER DATABASE {new} RENAME TO swapped_aside").format(**names))
            session.execute(sql.SQL("ALTER DATABASE {old} RENAME TO {new}").format(**names))
        rows = eventually(lambda: service.get("/api/decisions?domain=finance").json.get("decisions"))
        assert [row["domain"] for row in rows] == ["finance"] * 2
        assert service.get("/readyz").json["schema_version"] == 7
        assert service.stop() == 0
        session.execute(sql.SQL("DROP DATABASE {new} WITH (FORCE)").format(**names))
        session.execute(sql.SQL("ALTER DATABASE swapped_aside RENAME TO {new}").format(**names))
        session.execute(sql.SQL("ALTER DATABASE {new} ALLOW_CONNECTIONS true").format(**names))


def test_a_lock_that_lasts_is_a_503(v7: Target, tmp_path: Path) -> None:
    slow = Target({**v7.parameters, "options": "-c statement_timeout=300ms"}, v7.source)
    with serving(slow, tmp_path) as service:
        with locked(v7, "decision_events"):
            answer = service.get("/api/decisions")
            assert (answer.status, answer.problem) == (503, "database-busy")
            assert answer.headers["retry-after"] == "2"
        assert service.get("/api/decisions").status == 200


def test_trouble_is_logged_on_one_line_and_not_told(v7: Target, tmp_path: Path) -> None:
    with connect(v7) as session:
        session.execute(b"DROP ROLE IF EXISTS mandate_test_nobody")
        session.execute(b"CREATE ROLE mandate_test_nobody LOGIN")
    try:
        with serving(Target({**v7.parameters, "user": "mandate_test_nobody"}), tmp_path) as service:
            answer = service.get("/api/decisions")
            assert (answer.status, answer.problem) == (500, "internal")
            assert b"permission" not in answer.body
            line = service.line(answer)
            assert (line["level"], line["status"]) == ("error", 500)
            assert "Traceback" in line["exception"]
            assert "permission denied" in line["exception"]
    finally:
        with connect(v7) as session:
            session.execute(b"DROP ROLE mandate_test_nobody")


def test_a_log_that_was_rotated_is_opened_again(v7: Target, tmp_path: Path) -> None:
    with serving(v7, tmp_path) as service:
        service.line(service.get("/healthz"))
        service.log_file.rename(tmp_path / "old.log")
        answer = service.get("/healthz")
        assert service.line(answer)["path"] == "/healthz"
        assert sum(line["event"] == "request" for line in service.log()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_an_ordinary_user_s_log_is_his_own(open_directory: Path) -> None:
    home = open_directory / "home"
    home.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)

    def choose() -> str:
        os.environ["HOME"] = str(home)
        os.environ.pop("XDG_STATE_HOME", None)
        return str(logs.open_log(None))

    assert as_user("nobody", choose).startswith(str(home))


def test_kept_connections_are_answered_at_once_and_in_order(v7: Target, tmp_path: Path) -> None:
    with serving(v7, tmp_path) as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        socket_then = connection.sock
        for path in ("/api/decisions?limit=1", "/api/decisions?nope=1", "/api/decisions?limit=2"):
            connection.request("GET", path)
            assert connection.getresponse().read()
            assert connection.sock is socket_then
        connection.close()


def test_what_was_prepared_is_prepared_again_after_a_rollback(v7: Target) -> None:
    """The driver deallocates everything then, what it did not prepare itself too."""
    whose = {"mandate.organization_id": "x"}

    async def ask() -> list[str]:
        said = []
        async with Pool(lambda: v7, application_name="mandate-serve", size=1) as pool:
            for _ in range(8):  # the driver prepares a statement that it has seen five times
                await pool.rows(b"SELECT %(n)s::int AS n", {"n": 1}, whose)
            for query in (b"SELECT 1 / %(n)s::int AS n", b"SELECT %(n)s::int AS n") * 2:
                said += [row["text"] for row in await pool.rows(b"SELECT %(text)s AS text", {"text": "fine"})]
                with suppress(DatabaseError):
                    await pool.rows(query, {"n": 0}, whose)
            said += [row["text"] for row in await pool.rows(b"SELECT %(text)s AS text", {"text": "fine"})]
        return said

    assert asyncio.run(ask()) == ["fine"] * 5


def test_the_pool_cannot_write(v7: Target) -> None:
    async def write() -> None:
        async with Pool(lambda: v7, application_name="mandate-serve", size=1) as pool:
            await pool.rows(b"INSERT INTO mandate.organizations (name) VALUES ('x') RETURNING 1")

    with pytest.raises(DatabaseError) as caught:
        asyncio.run(write())
    assert caught.value.sqlstate == "25006"
